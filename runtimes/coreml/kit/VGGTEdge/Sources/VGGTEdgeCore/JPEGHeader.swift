import Foundation

/// The segments of a JPEG up to the end of its (first) picture; a thumbnail lies inside of a segment.
struct JPEGHeader {
    private static let (exifSegment, profileSegment, scan, end, fill) = (0xE1, 0xE2, 0xDA, 0xD9, 0xFF)
    private static let frames = Set(0xC0...0xCF).subtracting([0xC4, 0xC8, 0xCC])
    private static let restarts = 0xD0...0xD7
    /// Each scan of a progressive JPEG may visit every pixel: 100 megapixels in 15 scans take seconds.
    private static let mostPixelScans = 1_500_000_000

    private let bytes: FileBytes
    private var exif: ExifData?
    private var profile = Data()
    private var channels = 0
    private var pixels = 0
    private var scans = 0

    init(_ bytes: FileBytes) { self.bytes = bytes }

    mutating func orientation() throws -> PictureOrientation {
        var at = 2
        while try marker(at) != Self.end { at = try marker(at) == Self.fill ? at + 1 : segment(at) }
        try checkColors()
        let (work, overflow) = scans.multipliedReportingOverflow(by: pixels)
        guard !overflow, work <= Self.mostPixelScans else {
            throw PictureProblem("it has \(scans) scans over \(pixels) pixels", remedy: "save it again in one scan")
        }
        return exif?.orientation ?? .upright
    }

    private func marker(_ at: Int) throws -> Int {
        guard try bytes.byte(at) == 0xFF else { throw PictureProblem.cutShort }
        return try bytes.byte(at + 1)
    }

    /// Looks at a segment; where the next marker lies.
    private mutating func segment(_ at: Int) throws -> Int {
        let (kind, length, start) = (try bytes.byte(at + 1), try bytes.short(at + 2), at + 4)
        if kind == Self.exifSegment, bytes.holds("Exif\0", at: start), exif == nil {
            exif = ExifData(bytes, at: start, length: length - 2)
        } else if kind == Self.profileSegment, bytes.holds("ICC_PROFILE\0", at: start) {
            guard length >= 16 else { throw PictureProblem("its colour profile cannot be read") }
            profile.append(contentsOf: try bytes.part(start + 14, length - 16).content)
        } else if Self.frames.contains(kind) {
            channels = try bytes.byte(start + 5)
            pixels = try bytes.short(start + 1) * bytes.short(start + 3)
        }
        let next = start + max(0, length - 2)
        guard kind == Self.scan else { return next }
        scans += 1
        return try afterScan(next)
    }

    /// Behind the pixels: a 255 that is neither data nor a mark to start again.
    private func afterScan(_ start: Int) throws -> Int {
        var at = start
        while true {
            if try bytes.byte(at) == 0xFF {
                let next = try bytes.byte(at + 1)
                if next != 0 && next != Self.fill && !Self.restarts.contains(next) { return at }
            }
            at += 1
        }
    }

    private func checkColors() throws {
        if channels == 4 { throw PictureProblem("it has inks (CMYK)") }
        if profile.isEmpty {
            guard exif?.isAdobeRGB != true else {
                throw PictureProblem("its EXIF says Adobe RGB, but it carries no colour profile")
            }
            return
        }
        let kinds = channels == 1 ? ["GRAY", "RGB "] : ["RGB "]
        try profile.withUnsafeBytes { try PictureHeader.checkProfile(FileBytes($0), for: kinds) }
    }
}
