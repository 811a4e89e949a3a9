// As Xcode's XCTest declares them; the one for Linux has no attachments.
import Foundation
import XCTest

class XCTAttachment: NSObject {
    enum Lifetime: Int {
        case keepAlways = 0
        case deleteOnSuccess = 1
    }

    var name: String?
    var lifetime = Lifetime.deleteOnSuccess

    init(data: Data, uniformTypeIdentifier identifier: String) {}
}

@available(*, unavailable)
extension XCTAttachment: @unchecked Sendable {}

extension XCTestCase {
    func add(_ attachment: XCTAttachment) {}
}
