import Foundation

/// Reads float32 tensors from a safetensors file and believes nothing that the file says before it has checked it.
///
/// The format: 8 bytes with the length of the header (little endian), the header as JSON, the tensors without gaps.
public struct SafetensorsFile: Sendable {
    /// The exporter's headers have some kilobytes.
    static let headerLimits = StrictJSON.Limits(bytes: 16 << 20, depth: 4, values: 100_000)
    private static let mostSides = 8

    private struct Entry: Sendable {
        let dtype: String
        let shape: [Int]
        let dataOffsets: [Int]

        init(_ members: [StrictJSON.Key: StrictJSON]) throws {
            try members.checkKeys(["dtype", "shape", "data_offsets"], of: "a tensor")
            dtype = try members.member("dtype").text("dtype")
            shape = try members.member("shape").array("shape").map { try $0.whole("a side") }
            dataOffsets = try members.member("data_offsets").array("data_offsets").map { try $0.whole("an offset") }
        }
    }

    private let data: Data
    private let entries: [String: Entry]
    private let payloadStart: Int
    private let name: String

    /// - Parameter url: The file; it is mapped, not read into memory.
    /// - Throws: `KitError` for a file that is missing, cut short, or no such file.
    public init(contentsOf url: URL) throws {
        let data: Data
        do {
            data = try Data(contentsOf: url, options: .mappedIfSafe)
        } catch {
            throw KitError(
                .damagedFile,
                "cannot read \(url.lastPathComponent): \(error.localizedDescription)",
                remedy: "copy the file from the bundle again",
                underlying: error
            )
        }
        try self.init(data: data, name: url.lastPathComponent)
    }

    /// - Parameters:
    ///   - data: The bytes of a file.
    ///   - name: What errors call it.
    /// - Throws: `KitError` for bytes that are cut short or no such file.
    public init(data: Data, name: String = "safetensors data") throws {
        let headerLength = try Self.headerLength(of: data, name: name)
        do {
            let header = try StrictJSON(data.dropFirst(8).prefix(headerLength), limits: Self.headerLimits)
            let tensors = try header.object("header").byText().filter { $0.key != "__metadata__" }
            entries = try tensors.mapValues { try Entry($0.object("a tensor")) }
        } catch {
            throw Self.damaged(name, "its header is not understood (\(error))")
        }
        self.data = data
        self.name = name
        payloadStart = 8 + headerLength
        try checkEntries()
    }

    private static func headerLength(of data: Data, name: String) throws -> Int {
        guard data.count >= 8 else { throw damaged(name, "it has \(data.count) bytes") }
        let length = data.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) }
        guard length <= UInt64(min(headerLimits.bytes, data.count - 8)) else {
            throw damaged(name, "its header claims \(length) bytes")
        }
        return Int(length)
    }

    private static func damaged(_ name: String, _ reason: String) -> KitError {
        KitError(
            .damagedFile,
            "\(name) is no whole safetensors file: \(reason)",
            remedy: "copy it from the bundle again"
        )
    }

    /// The tensors are float32, and lie one behind the other from the header to the end of the file.
    private func checkEntries() throws {
        let ordered = entries.sorted { $0.value.dataOffsets.lexicographicallyPrecedes($1.value.dataOffsets) }
        var end = 0
        for (key, entry) in ordered {
            guard entry.dtype == "F32" else { throw Self.damaged(name, "\(key) is \(entry.dtype), not F32") }
            guard entry.shape.count <= Self.mostSides, let count = Self.elementCount(entry.shape),
                entry.dataOffsets.count == 2
            else {
                throw Self.damaged(name, "\(key) has no sane shape and place")
            }
            let (byteCount, overflow) = count.multipliedReportingOverflow(by: 4)
            let (expectedEnd, tooFar) = end.addingReportingOverflow(byteCount)
            guard !overflow, !tooFar, entry.dataOffsets == [end, expectedEnd] else {
                throw Self.damaged(name, "\(key) does not lie where its shape needs it")
            }
            end = expectedEnd
        }
        guard end == data.count - payloadStart else {
            throw Self.damaged(name, "its tensors take \(end) bytes, it has \(data.count - payloadStart)")
        }
    }

    /// The product of the sides, or nil where one is negative or the product has no `Int`.
    static func elementCount(_ shape: [Int]) -> Int? {
        var count = 1
        for side in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: side)
            guard side >= 0, !overflow else { return nil }
            count = product
        }
        return count
    }

    /// The sides of a tensor, nil if the file has no such tensor. Nothing is copied.
    public func shape(of name: String) -> [Int]? { entries[name]?.shape }

    /// The names of the tensors in alphabetical order.
    public var names: [String] { entries.keys.sorted() }

    /// One tensor, copied out of the file.
    ///
    /// - Throws: `KitError` if the file has no such tensor.
    public func tensor(_ name: String) throws -> Tensor {
        guard let entry = entries[name], let start = entry.dataOffsets.first,
            let count = Self.elementCount(entry.shape)
        else {
            throw KitError(
                .damagedFile,
                "\(self.name) has no tensor \(name), only \(names.joined(separator: ", "))",
                remedy: "copy the file from the bundle again"
            )
        }
        let first = payloadStart + start
        let values = [Float](unsafeUninitializedCapacity: count) { values, initialized in
            data.withUnsafeBytes { bytes in
                for index in 0..<count {
                    let bits = bytes.loadUnaligned(fromByteOffset: first + 4 * index, as: UInt32.self)
                    values.initializeElement(at: index, to: Float(bitPattern: UInt32(littleEndian: bits)))
                }
            }
            initialized = count
        }
        return Tensor(uncheckedShape: entry.shape, values: values)
    }
}

/// Numbers with a shape, in row-major order.
public struct Tensor: Equatable, Sendable {
    /// The sides, the slowest first.
    public let shape: [Int]
    /// The product of the sides many numbers.
    public let values: [Float]

    /// - Parameters:
    ///   - shape: The sides, the slowest first.
    ///   - values: As many as the product of the sides.
    /// - Throws: `KitError` for another number of values.
    public init(shape: [Int], values: [Float]) throws {
        guard SafetensorsFile.elementCount(shape) == values.count else {
            throw KitError(
                .wrongInput,
                "\(values.count) values for the shape \(shape)",
                remedy: "give as many values as the product of the sides"
            )
        }
        self.init(uncheckedShape: shape, values: values)
    }

    /// For shapes that were checked.
    init(uncheckedShape shape: [Int], values: [Float]) {
        self.shape = shape
        self.values = values
    }
}
