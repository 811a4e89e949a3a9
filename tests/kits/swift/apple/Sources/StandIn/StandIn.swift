// What the stand-in for Core ML does in a test, and what it counted. Not part of Apple's API.
import Foundation

public final class StandIn: @unchecked Sendable {
    /// Work that a test can hold, to see what happens meanwhile however slow the machine is.
    public enum Work: Sendable { case compilation, prediction }

    /// Everything that a test can change. A hook that is nil leaves the stand-in's own behaviour.
    public struct Behaviour: Sendable {
        /// Called with the package and the number of the call before a model is compiled; may throw.
        public var compile: (@Sendable (URL, Int) throws -> Void)?
        /// Called with the compiled model and the number of the call before it is loaded; may throw.
        public var load: (@Sendable (URL, Int) throws -> Void)?
        /// Takes an `MLFeatureProvider` and the number of the call, gives one back.
        public var predict: (@Sendable (Any, Int) throws -> Any)?
        /// Called with the number of the call before a compute plan is made; may throw.
        public var plan: (@Sendable (Int) throws -> Void)?
        /// So long every compilation takes at least.
        public var compileSeconds = 0.0
        public var inputs = ["images"]
        public var outputs = ["pose_enc", "depth", "depth_conf"]
        public var metadata: [String: String]?

        public init() {}
    }

    public static let shared = StandIn()

    private let lock = NSRecursiveLock()
    private var current = Behaviour()
    private var counts = [String: Int]()
    private var peaks = [String: Int]()
    private var passes = [Work: Int]()

    public var behaviour: Behaviour {
        get { lock.withLock { current } }
        set { lock.withLock { current = newValue } }
    }

    /// Changes some of the behaviour.
    public func change(_ body: (inout Behaviour) -> Void) { lock.withLock { body(&current) } }

    /// Lets such work begin from now on and then wait, until `letOn` or a minute has passed.
    public func hold(_ work: Work) { lock.withLock { passes[work] = 0 } }

    /// Lets one piece of work that waits, or that will begin, go on.
    public func letOn(_ work: Work) { lock.withLock { passes[work]? += 1 } }

    /// Ends a hold.
    public func letAllOn(_ work: Work) { lock.withLock { passes[work] = nil } }

    /// Whether work may go on; takes the permission for it.
    public func mayGoOn(_ work: Work) -> Bool {
        lock.withLock {
            guard let left = passes[work] else { return true }
            passes[work] = max(left - 1, 0)
            return left > 0
        }
    }

    /// Adds to a figure; its new value.
    @discardableResult
    public func count(_ key: String, _ step: Int = 1) -> Int {
        lock.withLock {
            let value = counts[key, default: 0] + step
            counts[key] = value
            peaks[key] = max(peaks[key] ?? 0, value)
            return value
        }
    }

    /// A figure now.
    public func figure(_ key: String) -> Int { lock.withLock { counts[key] ?? 0 } }

    /// The largest value that a figure had since `reset`.
    public func peak(_ key: String) -> Int { lock.withLock { peaks[key] ?? 0 } }

    /// Default behaviour, figures from 0; what is alive stays counted.
    public func reset() {
        lock.withLock {
            current = Behaviour()
            passes = [:]
            counts = counts.filter { $0.key.hasPrefix("live ") }
            peaks = counts
        }
    }
}
