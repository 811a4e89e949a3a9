#if canImport(CoreML)
    import Foundation

    /// The value of a task, or `CancellationError` as soon as the caller is cancelled; the task is cancelled then, too.
    ///
    /// `Task.value` itself waits for the end of work that cannot be cancelled, such as a compilation by Core ML.
    func value<Value: Sendable>(of task: Task<Value, any Error>) async throws -> Value {
        let (results, continuation) = AsyncStream.makeStream(of: Result<Value, any Error>.self)
        Task {
            continuation.yield(await task.result)
            continuation.finish()
        }
        for await result in results { return try result.get() }
        task.cancel()
        throw CancellationError()
    }

    /// Lets work on one thing run one after another, such as the loads of one model.
    actor Turnstile {
        static let shared = Turnstile()

        private var tails = [String: (number: Int, end: Task<Void, Never>)]()
        private var count = 0

        /// Runs `body` after everything that was begun before under the same key.
        ///
        /// - Throws: What `body` throws; `CancellationError` at once where the caller is cancelled. Work that has begun
        ///   goes on then, and those behind it wait for its end.
        func take<Value: Sendable>(
            _ key: String, _ body: @escaping @Sendable () async throws -> Value
        ) async throws -> Value {
            let previous = tails[key]?.end
            let work = Task {
                await previous?.value
                try Task.checkCancellation()
                return try await body()
            }
            count += 1
            let number = count
            tails[key] = (number, Task { _ = await work.result })
            defer { forget(key, number) }
            return try await value(of: work)
        }

        /// The last one leaves no trace. After a cancellation the work may still run: its tail stays until the next.
        private func forget(_ key: String, _ number: Int) {
            if tails[key]?.number == number, !Task.isCancelled { tails[key] = nil }
        }
    }
#endif
