import Foundation

/// The chunks of a PNG.
struct PNGHeader {
    /// First column, first row, step of columns, step of rows of the passes of an interlaced PNG.
    private static let interlacedPasses = [
        [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
    ]
    private static let channels = [0: 1, 2: 3, 3: 1, 4: 2, 6: 4]
    private static let sRGBCodePoints = (primaries: 1, transfer: 13)
    /// In units of 1/100000.
    private static let (gamma, tolerance) = ([45_455], 500)
    private static let corners = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000]
    private static let mostProfileBytes = 4 << 20
    /// What comes before the raw data in zlib's format.
    private static let packedHeaderBytes = 2

    private let chunks: [(name: String, content: FileBytes)]
    private let header: FileBytes
    private let unpacking: Unpacking

    init(_ bytes: FileBytes, unpacking: @escaping Unpacking) throws {
        self.unpacking = unpacking
        var (chunks, at) = ([(name: String, content: FileBytes)](), 8)
        repeat {
            let length = try bytes.long(at)
            let name = String(decoding: try bytes.part(at + 4, 4).content, as: UTF8.self)
            chunks.append((name, try bytes.part(at + 8, length)))
            at += 12 + length
        } while chunks.last?.name != "IEND"
        self.chunks = chunks
        guard let header = chunks.first(where: { $0.name == "IHDR" })?.content, header.count == 13 else {
            throw PictureProblem.cutShort
        }
        self.header = header
    }

    func orientation() throws -> PictureOrientation {
        try checkColors()
        try checkRows()
        return chunk("eXIf").flatMap { ExifData($0, at: 0, length: $0.count) }?.orientation ?? .upright
    }

    private func chunk(_ name: String) -> FileBytes? { chunks.first { $0.name == name }?.content }

    private func checkColors() throws {
        if let points = chunk("cICP"),
            try (points.byte(0), points.byte(1)) != (Self.sRGBCodePoints.primaries, Self.sRGBCodePoints.transfer)
        {
            throw PictureProblem("its cICP chunk says another colour space than sRGB")
        }
        if try header.byte(8) == 16, chunk("tRNS") != nil {
            throw PictureProblem("it has 16 bits and a transparent colour", remedy: "save it with an alpha channel")
        }
        if let profile = chunk("iCCP") {
            let isGrey = try [0, 4].contains(header.byte(9))
            try unpacked(profile).withUnsafeBytes {
                try PictureHeader.checkProfile(FileBytes($0), for: isGrey ? ["GRAY", "RGB "] : ["RGB "])
            }
        } else if chunk("sRGB") == nil,
            try !(isNear(chunk("gAMA"), Self.gamma) && isNear(chunk("cHRM"), Self.corners))
        {
            throw PictureProblem("its gAMA or cHRM chunk says another colour space than sRGB")
        }
    }

    private func isNear(_ chunk: FileBytes?, _ usual: [Int]) throws -> Bool {
        guard let chunk else { return true }
        return try usual.enumerated().allSatisfy { abs(try chunk.long(4 * $0.offset) - $0.element) <= Self.tolerance }
    }

    /// A name, a zero, the way it was packed, and the profile.
    private func unpacked(_ chunk: FileBytes) throws -> Data {
        let start = 2 + (chunk.content.firstIndex(of: 0) ?? chunk.count)
        var profile = Data()
        unpacking(Self.packed([try chunk.part(start, chunk.count - start)])) { part in
            profile.append(part)
            return profile.count < Self.mostProfileBytes
        }
        return profile
    }

    /// Without what comes before the raw data.
    private static func packed(_ chunks: [FileBytes]) -> [Data] {
        var left = packedHeaderBytes
        return chunks.map { chunk in
            let skipped = min(left, chunk.count)
            left -= skipped
            return Data(chunk.content.dropFirst(skipped))
        }
    }

    /// The system makes up rows that are not there.
    private func checkRows() throws {
        var left = try rowBytes()
        unpacking(Self.packed(chunks.filter { $0.name == "IDAT" }.map(\.content))) { part in
            left -= part.count
            return left > 0
        }
        guard left <= 0 else { throw PictureProblem.cutShort }
    }

    /// Bytes of the unpacked rows, each with its filter's byte.
    private func rowBytes() throws -> Int {
        let (width, height) = (try header.long(0), try header.long(4))
        guard max(width, height) <= RGBImage.longestSide else {
            throw PictureProblem("it claims \(width) x \(height) pixels", remedy: "scale it down")
        }
        let bits = try header.byte(8) * (Self.channels[header.byte(9)] ?? 1)
        let passes = try header.byte(12) == 0 ? [[0, 0, 1, 1]] : Self.interlacedPasses
        return passes.reduce(0) { sum, pass in
            let columns = (width - pass[0] + pass[2] - 1) / pass[2]
            let rows = (height - pass[1] + pass[3] - 1) / pass[3]
            return columns > 0 && rows > 0 ? sum + rows * (1 + (columns * bits + 7) / 8) : sum
        }
    }
}
