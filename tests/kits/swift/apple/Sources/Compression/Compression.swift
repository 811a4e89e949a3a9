// The decompressing half of Apple's Compression: raw deflate (RFC 1951), bit by bit, for the small files of tests.
import Foundation

public enum Algorithm: Sendable {
    case zlib
}

public enum FilterOperation: Sendable {
    case decompress
}

public enum FilterError: Error {
    case invalidData
}

/// Unpacks all at the first read; the real one does it as it reads.
public class InputFilter<D> where D: DataProtocol {
    private let read: (Int) throws -> D?
    private let capacity: Int
    private var unpacked: Data?

    public init(
        _ operation: FilterOperation,
        using algorithm: Algorithm,
        bufferCapacity: Int = 65536,
        readingFrom: @escaping (Int) throws -> D?
    ) throws {
        read = readingFrom
        capacity = bufferCapacity
    }

    public func readData(ofLength count: Int) throws -> Data? {
        if unpacked == nil {
            var packed = [UInt8]()
            while let part = try read(capacity), !part.isEmpty { packed += part }
            var inflating = Inflating(packed)
            unpacked = Data(inflating.all())
        }
        let part = unpacked?.prefix(count) ?? Data()
        unpacked = unpacked?.dropFirst(count)
        return part.isEmpty ? nil : part
    }
}

@available(*, unavailable)
extension InputFilter: @unchecked Sendable {}

private struct Inflating {
    private static let lengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    private static let lengths = [
        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227,
        258,
    ]
    private static let distances = [
        1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097,
        6145, 8193, 12289, 16385, 24577,
    ]

    private let packed: [UInt8]
    private var bit = 0
    private var output = [UInt8]()

    init(_ packed: [UInt8]) { self.packed = packed }

    /// What can be unpacked.
    mutating func all() -> [UInt8] {
        try? run()
        return output
    }

    private mutating func run() throws {
        var isLast = false
        while !isLast {
            isLast = try bits(1) == 1
            switch try bits(2) {
            case 0: try stored()
            case 1:
                let sizes = (0..<288).map { $0 < 144 ? 8 : $0 < 256 ? 9 : $0 < 280 ? 7 : 8 }
                try block(Codes(sizes), Codes([Int](repeating: 5, count: 30)))
            case 2: try described()
            default: throw FilterError.invalidData
            }
        }
    }

    private mutating func bits(_ count: Int) throws -> Int {
        var value = 0
        for place in 0..<count {
            guard bit >> 3 < packed.count else { throw FilterError.invalidData }
            value |= Int(packed[bit >> 3] >> (bit & 7) & 1) << place
            bit += 1
        }
        return value
    }

    private mutating func stored() throws {
        bit = (bit + 7) & ~7
        let length = try bits(16)
        _ = try bits(16)
        for _ in 0..<length { output.append(UInt8(try bits(8))) }
    }

    private mutating func described() throws {
        let (literals, distances, codes) = (try bits(5) + 257, try bits(5) + 1, try bits(4) + 4)
        var sizes = [Int](repeating: 0, count: 19)
        for place in 0..<codes { sizes[Self.lengthOrder[place]] = try bits(3) }
        let table = Codes(sizes)
        var all = [Int]()
        while all.count < literals + distances {
            switch try symbol(table) {
            case 16: all += [Int](repeating: all.last ?? 0, count: try bits(2) + 3)
            case 17: all += [Int](repeating: 0, count: try bits(3) + 3)
            case 18: all += [Int](repeating: 0, count: try bits(7) + 11)
            case let size: all.append(size)
            }
        }
        try block(Codes(Array(all[..<literals])), Codes(Array(all[literals...])))
    }

    private mutating func block(_ literals: Codes, _ distances: Codes) throws {
        while true {
            let value = try symbol(literals)
            if value == 256 { return }
            if value < 256 {
                output.append(UInt8(value))
                continue
            }
            let length = try Self.lengths[value - 257] + bits(value < 265 || value == 285 ? 0 : (value - 261) / 4)
            let code = try symbol(distances)
            let back = try Self.distances[code] + bits(code < 4 ? 0 : (code - 2) / 2)
            guard back <= output.count else { throw FilterError.invalidData }
            for _ in 0..<length { output.append(output[output.count - back]) }
        }
    }

    private mutating func symbol(_ codes: Codes) throws -> Int {
        var (code, length) = (0, 0)
        repeat {
            code = code << 1 | (try bits(1))
            length += 1
            if let symbol = codes.symbols[Codes.Key(length: length, code: code)] { return symbol }
        } while length < 15
        throw FilterError.invalidData
    }
}

/// Canonical Huffman codes.
private struct Codes {
    struct Key: Hashable {
        let length: Int
        let code: Int
    }

    private(set) var symbols = [Key: Int]()

    init(_ sizes: [Int]) {
        var code = 0
        for length in 1...15 {
            for symbol in sizes.indices where sizes[symbol] == length {
                symbols[Key(length: length, code: code)] = symbol
                code += 1
            }
            code <<= 1
        }
    }
}
