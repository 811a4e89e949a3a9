/// How the stored pixels of a picture become upright, in the eight ways of EXIF.
package struct PictureOrientation: Equatable, Sendable {
    package static let upright = PictureOrientation(isMirrored: false, turn: .upright)

    /// Whether left and right are exchanged before the turn.
    let isMirrored: Bool
    let turn: QuarterTurn

    init(isMirrored: Bool, turn: QuarterTurn) {
        self.isMirrored = isMirrored
        self.turn = turn
    }

    /// By the value of EXIF's tag, from 1 to 8; upright for any other.
    package init(exif value: Int) {
        let turns: [Int: QuarterTurn] = [
            3: .half, 4: .half, 5: .counterclockwise, 6: .clockwise, 7: .clockwise, 8: .counterclockwise,
        ]
        self.init(isMirrored: [2, 4, 5, 7].contains(value), turn: turns[value] ?? .upright)
    }
}

/// What EXIF says of a picture.
struct ExifData {
    private static let orientationTag = 0x0112
    private static let detailsTag = 0x8769
    private static let interoperabilityTag = 0xA005
    private static let indexTag = 1
    private static let entryBytes = 12

    let orientation: PictureOrientation
    /// Whether its colours are those of Adobe RGB.
    let isAdobeRGB: Bool

    /// Nil for data that cannot be read: they say nothing, as for the system.
    init?(_ file: FileBytes, at start: Int, length: Int) {
        let begin = file.holds("Exif\0\0", at: start) ? 6 : 0
        do {
            try self.init(tables: file.part(start + begin, length - begin))
        } catch {
            return nil
        }
    }

    private init(tables: FileBytes) throws {
        var bytes = tables
        bytes.isLittleEndian = bytes.holds("II", at: 0)
        let first = try bytes.long(4)
        let value = try Self.entry(bytes, first, Self.orientationTag).map { try bytes.short($0) }
        orientation = PictureOrientation(exif: value ?? 1)
        let details = try Self.entry(bytes, first, Self.detailsTag).map { try bytes.long($0) }
        let others = try details.flatMap { try Self.entry(bytes, $0, Self.interoperabilityTag) }
        let index = try others.flatMap { try Self.entry(bytes, bytes.long($0), Self.indexTag) }
        isAdobeRGB = index.map { bytes.holds("R03", at: $0) } ?? false
    }

    /// Where the value of a tag lies; nil without that tag.
    private static func entry(_ bytes: FileBytes, _ table: Int, _ tag: Int) throws -> Int? {
        for index in 0..<(try bytes.short(table)) {
            let at = table + 2 + entryBytes * index
            if try bytes.short(at) == tag { return at + 8 }
        }
        return nil
    }
}
