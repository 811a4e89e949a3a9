/// The bytes of a file that is not trusted. Every access outside of them is an error. Valid as long as their memory is.
struct FileBytes {
    private let bytes: UnsafeRawBufferPointer
    /// The order of numbers of more than one byte.
    var isLittleEndian = false

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var count: Int { bytes.count }
    var content: UnsafeRawBufferPointer { bytes }

    @inline(__always)
    func byte(_ at: Int) throws -> Int {
        guard bytes.indices.contains(at) else { throw PictureProblem.cutShort }
        return Int(bytes[at])
    }

    func short(_ at: Int) throws -> Int { try number(at, bytes: 2) }

    func long(_ at: Int) throws -> Int { try number(at, bytes: 4) }

    private func number(_ at: Int, bytes count: Int) throws -> Int {
        let places = isLittleEndian ? Array((0..<count).reversed()) : Array(0..<count)
        return try places.reduce(0) { try $0 << 8 | byte(at + $1) }
    }

    /// Whether this text lies there, one byte per character; no if the file ends before.
    func holds(_ text: String, at start: Int) -> Bool {
        text.unicodeScalars.enumerated().allSatisfy { (try? byte(start + $0.offset)) == Int($0.element.value) }
    }

    /// Bytes that have to be there.
    func part(_ start: Int, _ length: Int) throws -> FileBytes {
        guard start >= 0, length >= 0, length <= count - start else { throw PictureProblem.cutShort }
        var part = FileBytes(UnsafeRawBufferPointer(rebasing: bytes[start..<(start + length)]))
        part.isLittleEndian = isLittleEndian
        return part
    }
}
