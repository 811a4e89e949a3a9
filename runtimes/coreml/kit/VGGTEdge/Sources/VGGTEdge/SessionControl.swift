#if canImport(CoreML)
    import Foundation

    /// What is known of a session without waiting for it: whether it is busy, and is to give its memory back.
    ///
    /// Unchecked, because the compiler cannot see that every access holds the lock.
    final class SessionControl: @unchecked Sendable {
        private let lock = NSLock()
        private var predictions = 0
        private var isUnloadAsked = false
        private var waiting = [CheckedContinuation<Void, Never>]()

        /// Whether a prediction runs or waits.
        var isBusy: Bool { lock.withLock { predictions > 0 } }

        func begin() { lock.withLock { predictions += 1 } }

        func end() { lock.withLock { predictions -= 1 } }

        /// - Parameter continuation: Resumed when the memory was given back.
        func askToUnload(_ continuation: CheckedContinuation<Void, Never>? = nil) {
            lock.withLock {
                isUnloadAsked = true
                if let continuation { waiting.append(continuation) }
            }
        }

        /// Those who wait for the memory, if it was asked for; it is asked for no longer.
        func takeUnloadRequest() -> [CheckedContinuation<Void, Never>]? {
            lock.withLock {
                guard isUnloadAsked else { return nil }
                defer { (isUnloadAsked, waiting) = (false, []) }
                return waiting
            }
        }
    }

    /// The compiled models that are loaded in this process, so that nobody removes one that is in use.
    ///
    /// Unchecked, because the compiler cannot see that every access holds the lock.
    final class OpenModels: @unchecked Sendable {
        static let shared = OpenModels()

        private let lock = NSLock()
        private var counts = [String: Int]()

        func holds(_ model: URL) -> Bool { lock.withLock { counts[Self.key(model), default: 0] > 0 } }

        func add(_ model: URL) { lock.withLock { counts[Self.key(model), default: 0] += 1 } }

        func remove(_ model: URL) {
            lock.withLock {
                let left = counts[Self.key(model), default: 0] - 1
                counts[Self.key(model)] = left > 0 ? left : nil
            }
        }

        private static func key(_ model: URL) -> String { model.standardizedFileURL.path }
    }
#endif
