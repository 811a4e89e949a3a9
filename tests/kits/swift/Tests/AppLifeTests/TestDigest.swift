import CryptoKit
import Foundation

enum TestDigest {
    static func sha256(of data: Data) -> String {
        var hash = SHA256()
        hash.update(data: data)
        return hash.finalize().map { String(format: "%02x", $0) }.joined()
    }
}
