// In place of the kit's Bridging.swift: Core Foundation does not bridge on Linux.
import CoreVideo
import Foundation
import ImageIO

func attributes(_ key: CFString, _ value: [String: String]) -> CFDictionary { CFDictionary([key.text: value]) }

func text(_ value: CFTypeRef?) -> String? { (value as? CFString)?.text }

func numbers(_ value: CFTypeRef?) -> [String: Double]? {
    (value as? CFDictionary)?.content.compactMapValues { $0 as? Double }
}

func imageSource(_ url: URL) -> CGImageSource? { CGImageSourceCreateWithURL(CFURL(url), nil) }

func orientation(of source: CGImageSource) -> Int? {
    CGImageSourceCopyPropertiesAtIndex(source, 0, nil)?.content[kCGImagePropertyOrientation.text] as? Int
}
