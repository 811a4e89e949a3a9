#if canImport(CoreVideo)
    import CoreVideo
    import Foundation

    // Everything that bridges between Core Foundation and Swift stands here: it needs Apple's compiler.

    func attributes(_ key: CFString, _ value: [String: String]) -> CFDictionary { [key: value] as CFDictionary }

    func text(_ value: CFTypeRef?) -> String? { value as? String }

    func numbers(_ value: CFTypeRef?) -> [String: Double]? { value as? [String: Double] }
#endif
