#if canImport(CoreVideo)
    import CoreVideo
    import Foundation
    import ImageIO

    // Everything that bridges between Core Foundation and Swift stands here: it needs Apple's compiler.

    func attributes(_ key: CFString, _ value: [String: String]) -> CFDictionary { [key: value] as CFDictionary }

    func text(_ value: CFTypeRef?) -> String? { value as? String }

    func numbers(_ value: CFTypeRef?) -> [String: Double]? { value as? [String: Double] }

    func imageSource(_ url: URL) -> CGImageSource? { CGImageSourceCreateWithURL(url as CFURL, nil) }

    func orientation(of source: CGImageSource) -> Int? {
        let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
        return properties?[kCGImagePropertyOrientation] as? Int
    }
#endif
