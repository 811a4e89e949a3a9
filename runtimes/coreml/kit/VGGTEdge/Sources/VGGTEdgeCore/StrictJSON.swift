import Foundation

/// A JSON value of which there is only one reading.
///
/// The reader follows RFC 8259 and refuses what parsers read differently: a key given twice, comments, a byte order
/// mark, text behind the value, numbers such as `016` or `NaN`, raw control characters in strings, bytes that are no
/// UTF-8, half a surrogate pair. Depth, length and the number of values are bounded, so that a small file cannot ask
/// for a large memory.
indirect enum StrictJSON: Equatable, Sendable {
    case null
    case bool(Bool)
    /// A number without fraction and exponent that an `Int` holds.
    case integer(Int)
    case number(Double)
    case string(String)
    case array([StrictJSON])
    case object([Key: StrictJSON])

    /// A key by its bytes: Swift takes strings for equal that are so by canonical equivalence only.
    struct Key: Hashable, Sendable, CustomStringConvertible {
        let description: String

        init(_ text: String) { description = text }

        static func == (first: Key, second: Key) -> Bool {
            first.description.utf8.elementsEqual(second.description.utf8)
        }

        func hash(into hasher: inout Hasher) {
            for byte in description.utf8 { hasher.combine(byte) }
        }
    }

    /// What one text may hold at most.
    struct Limits: Sendable {
        let bytes: Int
        var depth = 32
        var values = 200_000
    }

    /// - Throws: `Problem` for anything but one value in the strict form.
    init(_ data: Data, limits: Limits) throws {
        guard data.count <= limits.bytes else { throw Problem("\(data.count) bytes, at most \(limits.bytes)", at: 0) }
        self = try data.withUnsafeBytes { bytes in
            var reader = StrictJSONReader(bytes: bytes.bindMemory(to: UInt8.self), limits: limits)
            return try reader.whole()
        }
    }

    /// Where the text stops being strict JSON, or what a value should have been.
    struct Problem: Error, CustomStringConvertible {
        let description: String

        init(_ reason: String, at byte: Int) { description = "\(reason) at byte \(byte)" }
        init(_ reason: String) { description = reason }
    }
}

// MARK: - Values by type

extension StrictJSON {
    /// The members of an object, for reading by key.
    func object(_ what: String) throws -> [Key: StrictJSON] {
        guard case .object(let members) = self else { throw Problem("\(what) is no object") }
        return members
    }

    func array(_ what: String) throws -> [StrictJSON] {
        guard case .array(let values) = self else { throw Problem("\(what) is no list") }
        return values
    }

    func text(_ what: String) throws -> String {
        guard case .string(let text) = self else { throw Problem("\(what) is no text") }
        return text
    }

    func whole(_ what: String) throws -> Int {
        guard case .integer(let value) = self else { throw Problem("\(what) is no whole number") }
        return value
    }

    /// A finite number, or nil for null.
    func optionalNumber(_ what: String) throws -> Double? {
        switch self {
        case .null: return nil
        case .integer(let value): return Double(value)
        case .number(let value): return value
        default: throw Problem("\(what) is neither a number nor null")
        }
    }
}

extension [StrictJSON.Key: StrictJSON] {
    /// The member called `key`. A key that is missing is an error; a value that may be missing is written as null.
    func member(_ key: String) throws -> StrictJSON {
        guard let value = self[StrictJSON.Key(key)] else { throw StrictJSON.Problem("the key \(key) is missing") }
        return value
    }

    /// The members as an ordinary dictionary; two keys that a file system takes for one name are refused.
    func byText() throws -> [String: StrictJSON] {
        try [String: StrictJSON](map { ($0.key.description, $0.value) }) { _, _ in
            throw StrictJSON.Problem("two keys that differ in their bytes only")
        }
    }

    /// Refuses keys that this package does not know, where not knowing one would change a verdict.
    func checkKeys(_ known: Set<String>, of what: String) throws {
        let unknown = keys.map(\.description).filter { !known.contains($0) }.sorted()
        guard unknown.isEmpty else { throw StrictJSON.Problem("unknown keys in \(what): \(unknown)") }
    }
}

// MARK: - Parsing

private struct StrictJSONReader {
    private let bytes: UnsafeBufferPointer<UInt8>
    private let limits: StrictJSON.Limits
    private var position = 0
    private var values = 0
    private var depth = 0

    init(bytes: UnsafeBufferPointer<UInt8>, limits: StrictJSON.Limits) {
        self.bytes = bytes
        self.limits = limits
    }

    mutating func whole() throws -> StrictJSON {
        let value = try value()
        skipSpace()
        guard position == bytes.count else { throw problem("text behind the value") }
        return value
    }

    private func problem(_ reason: String) -> StrictJSON.Problem { StrictJSON.Problem(reason, at: position) }

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard current == byte else { return false }
        position += 1
        return true
    }

    private mutating func expect(_ character: Unicode.Scalar) throws {
        guard take(UInt8(ascii: character)) else { throw problem("no \(character)") }
    }

    private mutating func value() throws -> StrictJSON {
        values += 1
        guard values <= limits.values else { throw problem("more than \(limits.values) values") }
        skipSpace()
        switch current {
        case UInt8(ascii: "{"): return try nested { try $0.object() }
        case UInt8(ascii: "["): return try nested { try $0.array() }
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    private mutating func nested(_ body: (inout Self) throws -> StrictJSON) throws -> StrictJSON {
        depth += 1
        guard depth <= limits.depth else { throw problem("more than \(limits.depth) levels") }
        position += 1
        let value = try body(&self)
        depth -= 1
        return value
    }

    private mutating func word(_ text: StaticString, _ value: StrictJSON) throws -> StrictJSON {
        for index in 0..<text.utf8CodeUnitCount {
            guard take(text.utf8Start[index]) else { throw problem("no \(text)") }
        }
        return value
    }

    private mutating func object() throws -> StrictJSON {
        var members = [StrictJSON.Key: StrictJSON]()
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(members) }
        repeat {
            skipSpace()
            let key = StrictJSON.Key(try string())
            guard members[key] == nil else { throw problem("the key \(key) is given twice") }
            skipSpace()
            try expect(":")
            members[key] = try value()
            skipSpace()
        } while take(UInt8(ascii: ","))
        try expect("}")
        return .object(members)
    }

    private mutating func array() throws -> StrictJSON {
        var elements = [StrictJSON]()
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(elements) }
        repeat {
            elements.append(try value())
            skipSpace()
        } while take(UInt8(ascii: ","))
        try expect("]")
        return .array(elements)
    }

    private mutating func number() throws -> StrictJSON {
        let start = position
        _ = take(UInt8(ascii: "-"))
        let leading = position
        try digits()
        guard bytes[leading] != UInt8(ascii: "0") || position == leading + 1 else { throw problem("a leading 0") }
        var isWhole = true
        if take(UInt8(ascii: ".")) {
            isWhole = false
            try digits()
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            isWhole = false
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try digits()
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if isWhole, let value = Int(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite else { throw problem("a number without bounds") }
        return .number(value)
    }

    private mutating func digits() throws {
        let start = position
        while let byte = current, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
        guard position > start else { throw problem("no value") }
    }

    private mutating func string() throws -> String {
        try expect("\"")
        var text = [UInt8]()
        while let byte = current, byte != UInt8(ascii: "\"") {
            guard byte >= 0x20 else { throw problem("a raw control character") }
            position += 1
            if byte == UInt8(ascii: "\\") {
                text.append(contentsOf: String(try escaped()).utf8)
            } else {
                text.append(byte)
            }
        }
        try expect("\"")
        let decoded = String(decoding: text, as: UTF8.self)
        guard Array(decoded.utf8) == text else { throw problem("bytes that are no UTF-8") }
        return decoded
    }

    private mutating func escaped() throws -> Unicode.Scalar {
        guard let byte = current else { throw problem("a string without an end") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(byte)
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"): return try codePoint()
        default: throw problem("an unknown escape")
        }
    }

    /// The code point of `\u` escapes: one, or the two halves of a surrogate pair.
    private mutating func codePoint() throws -> Unicode.Scalar {
        let first = try fourHexDigits()
        guard (0xD800...0xDBFF).contains(first) else {
            guard let scalar = Unicode.Scalar(first) else { throw problem("half a surrogate pair") }
            return scalar
        }
        guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw problem("half a surrogate pair") }
        let second = try fourHexDigits()
        guard (0xDC00...0xDFFF).contains(second),
            let scalar = Unicode.Scalar(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
        else { throw problem("half a surrogate pair") }
        return scalar
    }

    private mutating func fourHexDigits() throws -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = current, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw problem("no four hexadecimal digits")
            }
            value = value << 4 | UInt32(digit)
            position += 1
        }
        return value
    }
}
