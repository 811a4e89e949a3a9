// Decoded pictures come from files that pictures.py made, in the folder VGGT_EDGE_PICTURES: NAME.pixels has a line with
// width, height and orientation, the pixels as stored, then in sRGB.
@_exported import CoreGraphics

public final class CFURL {
    public let url: URL

    public init(_ url: URL) { self.url = url }
}

@available(*, unavailable)
extension CFURL: @unchecked Sendable {}

public let kCGImagePropertyOrientation = CFString("Orientation")

public final class CGImageSource {
    let image: CGImage
    let orientation: Int

    init?(_ url: URL) {
        let folder = ProcessInfo.processInfo.environment["VGGT_EDGE_PICTURES"] ?? "."
        let file = URL(fileURLWithPath: folder).appendingPathComponent("\(url.lastPathComponent).pixels")
        guard FileManager.default.fileExists(atPath: url.path), let bytes = try? [UInt8](Data(contentsOf: file)),
            let line = bytes.firstIndex(of: 10)
        else { return nil }
        let numbers = String(decoding: bytes[..<line], as: UTF8.self).split(separator: " ").compactMap { Int($0) }
        let count = 4 * numbers[0] * numbers[1]
        let pixels = Array(bytes[(line + 1)...])
        precondition(pixels.count == 2 * count, "\(file.lastPathComponent) is damaged")
        image = CGImage(
            standIn: Array(pixels[..<count]), converted: Array(pixels[count...]), width: numbers[0], height: numbers[1]
        )
        orientation = numbers[2]
    }
}

@available(*, unavailable)
extension CGImageSource: @unchecked Sendable {}

public func CGImageSourceCreateWithURL(_ url: CFURL, _ options: CFDictionary?) -> CGImageSource? {
    CGImageSource(url.url)
}

public func CGImageSourceCreateImageAtIndex(
    _ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CGImage? {
    index == 0 ? isrc.image : nil
}

public func CGImageSourceCopyPropertiesAtIndex(
    _ isrc: CGImageSource, _ index: Int, _ options: CFDictionary?
) -> CFDictionary? {
    CFDictionary([kCGImagePropertyOrientation.text: isrc.orientation])
}
