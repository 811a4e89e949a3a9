#if canImport(ImageIO)
    import Compression
    import CoreGraphics
    import Foundation
    import ImageIO
    import VGGTEdgeCore

    extension RGBImage {
        /// The pixels of a picture's file: upright as its EXIF orientation says, in sRGB, and on white.
        ///
        /// The system decodes the file and converts its colours. Takes four bytes per pixel while it works, beside what
        /// the system itself needs.
        /// - Parameter url: A JPEG, PNG, HEIC or other file that the system reads.
        /// - Throws: `KitError` for a file that cannot be decoded, is cut short, is of high dynamic range, or whose
        ///   colours could be meant in more than one way (docs/preprocessing.md of vggt-edge lists these).
        public init(contentsOf url: URL) throws {
            self = try RGBImage.image(contentsOf: url, to: nil)
        }

        /// The same as a model's input.
        static func image(contentsOf url: URL, to input: ModelFrame?) throws -> RGBImage {
            let known = try knownOrientation(url)
            guard let source = imageSource(url), let picture = CGImageSourceCreateImageAtIndex(source, 0, nil) else {
                throw unusable(url, "the system cannot decode it", "pass a JPEG, PNG or HEIC file")
            }
            if let space = picture.colorSpace, CGColorSpaceUsesITUR_2100TF(space) {
                throw unusable(url, "it is of high dynamic range", "save it in sRGB")
            }
            let upright = known ?? PictureOrientation(exif: orientation(of: source) ?? 1)
            return try drawn(picture, url).withUnsafeBytes { bytes in
                let size = FrameSize(width: picture.width, height: picture.height)
                let plane = BytePlane(bytes: bytes, bytesPerRow: 4 * size.width)
                let area = PixelArea(of: size)
                let pixels = try PackedPixels(plane: plane, area: area, order: .rgba, alpha: .ignored)
                return try FrameInMemory(.packed(pixels), space: .sRGB).image(upright: upright, to: input)
            }
        }

        private static func knownOrientation(_ url: URL) throws -> PictureOrientation? {
            do {
                let file = try Data(contentsOf: url, options: .mappedIfSafe)
                return try PictureHeader.orientation(of: file, unpacking: unpack)
            } catch let problem as PictureProblem {
                throw unusable(url, problem.reason, problem.remedy)
            } catch {
                let reason = "it cannot be read: \(error.localizedDescription)"
                throw unusable(url, reason, "pass a file that exists", error)
            }
        }
    }

    private let mostPixels = 100_000_000

    /// Four bytes per pixel in sRGB, on white.
    private func drawn(_ picture: CGImage, _ url: URL) throws -> [UInt8] {
        let (width, height) = (picture.width, picture.height)
        guard width > 0, height > 0, height <= mostPixels / width else {
            throw unusable(url, "it has \(width) x \(height) pixels", "scale it down")
        }
        let bounds = CGRect(x: 0, y: 0, width: width, height: height)
        var bytes = [UInt8](repeating: 255, count: 4 * width * height)
        let isDrawn = bytes.withUnsafeMutableBytes { memory in
            guard let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: memory.baseAddress,
                    width: width,
                    height: height,
                    bitsPerComponent: 8,
                    bytesPerRow: 4 * width,
                    space: space,
                    bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue
                )
            else { return false }
            context.interpolationQuality = .none
            context.draw(picture, in: bounds)
            return true
        }
        guard isDrawn else { throw unusable(url, "the system cannot draw it", "free memory, or scale it down") }
        return bytes
    }

    private func unusable(_ url: URL, _ reason: String, _ remedy: String, _ cause: (any Error)? = nil) -> KitError {
        let what = "the picture \(url.lastPathComponent) cannot be used: \(reason)"
        return KitError(.wrongInput, what, remedy: remedy, underlying: cause)
    }

    /// By the system's own decompressor; what cannot be unpacked ends there.
    private func unpack(_ parts: [Data], _ use: (Data) -> Bool) {
        var left = parts.filter { !$0.isEmpty }[...]
        let filter = try? InputFilter<Data>(.decompress, using: .zlib) { length in
            guard let first = left.first else { return nil }
            left[left.startIndex] = first.dropFirst(length)
            if first.count <= length { left.removeFirst() }
            return first.prefix(length)
        }
        while let part = try? filter?.readData(ofLength: 1 << 16), !part.isEmpty, use(part) {}
    }
#endif
