import Foundation

/// A reason not to read a picture, and what helps.
package struct PictureProblem: Error {
    package let reason: String
    package let remedy: String

    init(_ reason: String, remedy: String = "save it in sRGB") {
        self.reason = reason
        self.remedy = remedy
    }

    static let cutShort = PictureProblem("it is cut short", remedy: "copy or download the file again")
}

/// Unpacks raw deflate data part by part, until their end, damage, or the receiver says that it has enough.
package typealias Unpacking = (_ packed: [Data], _ use: (Data) -> Bool) -> Void

/// What the file of a picture says beside its pixels.
///
/// The system decodes pictures and converts their colours, but it keeps quiet about what it had to guess, and it fills
/// in rows that are missing. So this looks at the bytes too, by the rules of the exporter's reader.
package enum PictureHeader {
    /// How the picture has to be turned; nil for a format that is not looked at.
    ///
    /// - Throws: `PictureProblem` for a file that is cut short, or whose colours could be meant in more than one way.
    package static func orientation(of file: Data, unpacking: @escaping Unpacking) throws -> PictureOrientation? {
        try file.withUnsafeBytes { bytes in
            let bytes = FileBytes(bytes)
            if bytes.holds("\u{ff}\u{d8}\u{ff}", at: 0) {
                var header = JPEGHeader(bytes)
                return try header.orientation()
            }
            if bytes.holds("\u{89}PNG\r\n\u{1a}\n", at: 0) {
                return try PNGHeader(bytes, unpacking: unpacking).orientation()
            }
            if bytes.holds("RIFF", at: 0), bytes.holds("WEBP", at: 8) { return try webP(bytes) }
            return bytes.holds("BM", at: 0) ? try bmp(bytes) : nil
        }
    }

    private static func webP(_ file: FileBytes) throws -> PictureOrientation {
        var bytes = file
        bytes.isLittleEndian = true
        let end = try 8 + bytes.long(4)
        guard end <= bytes.count else { throw PictureProblem.cutShort }
        var (at, exif) = (12, ExifData?.none)
        while at + 8 <= end {
            let length = try bytes.long(at + 4)
            let content = try bytes.part(at + 8, length)
            if bytes.holds("EXIF", at: at) { exif = ExifData(content, at: 0, length: length) }
            if bytes.holds("ICCP", at: at) { try checkProfile(content, for: ["RGB "]) }
            at += 8 + length + length % 2
        }
        return exif?.orientation ?? .upright
    }

    private static func bmp(_ file: FileBytes) throws -> PictureOrientation {
        var bytes = file
        bytes.isLittleEndian = true
        guard try bytes.long(2) <= bytes.count else { throw PictureProblem.cutShort }
        if try bytes.long(14) >= 124, bytes.holds("DEBM", at: 70) || bytes.holds("KNIL", at: 70) {
            throw PictureProblem("it carries a colour profile, which is not read from BMP")
        }
        return .upright
    }

    /// - Throws: `PictureProblem` unless this is a whole ICC profile for pixels of one of these kinds.
    static func checkProfile(_ bytes: FileBytes, for kinds: [String]) throws {
        var profile = bytes
        profile.isLittleEndian = false
        guard profile.count >= 128, profile.holds("acsp", at: 36), (128...profile.count).contains(try profile.long(0))
        else { throw PictureProblem("its colour profile cannot be read") }
        guard kinds.contains(where: { profile.holds($0, at: 16) }) else {
            throw PictureProblem("its colour profile is for other pixels than it has")
        }
    }
}
