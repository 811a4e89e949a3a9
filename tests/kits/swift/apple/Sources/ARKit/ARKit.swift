// ARKit as far as the README's example uses it. Every method of the delegate is optional in Objective-C; here the
// optional ones have a default.
@_exported import CoreVideo
import Foundation

open class ARSession: NSObject {}

open class ARCamera: NSObject {
    public enum TrackingState: Equatable, Sendable {
        public enum Reason: Equatable, Sendable {
            case initializing
            case excessiveMotion
            case insufficientFeatures
            case relocalizing
        }

        case notAvailable
        case limited(Reason)
        case normal
    }

    public let trackingState: TrackingState

    public init(trackingState: TrackingState) { self.trackingState = trackingState }
}

@available(*, unavailable)
extension ARCamera: @unchecked Sendable {}

open class ARFrame: NSObject {
    public let timestamp: TimeInterval
    public let capturedImage: CVPixelBuffer
    public let camera: ARCamera

    public init(timestamp: TimeInterval, capturedImage: CVPixelBuffer, camera: ARCamera) {
        self.timestamp = timestamp
        self.capturedImage = capturedImage
        self.camera = camera
    }
}

@available(*, unavailable)
extension ARFrame: @unchecked Sendable {}

public protocol ARSessionObserver: NSObjectProtocol {}

public protocol ARSessionDelegate: ARSessionObserver {
    func session(_ session: ARSession, didUpdate frame: ARFrame)
}

extension ARSessionDelegate {
    public func session(_ session: ARSession, didUpdate frame: ARFrame) {}
}
