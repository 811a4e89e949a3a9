import Foundation

/// What went wrong and what to do next. Everything that this package throws on purpose is a `KitError`.
public struct KitError: Error, Sendable {
    /// The kinds of failure, for code that reacts to them.
    public enum Kind: String, CaseIterable, Equatable, Sendable {
        /// A file of the kit is missing, cut short, or not what `kit.json` lists.
        case damagedFile
        /// This system, or this version of the package, cannot use the kit.
        case unsupported
        /// Frames, tensors or sizes handed in do not fit the model.
        case wrongInput
        /// The model gave something that cannot be used, such as NaN.
        case unusableOutput
        /// Core ML could not compile, load or run the model.
        case modelFailed
    }

    /// The kind of failure.
    public let kind: Kind
    /// What happened, with the file, tensor or size it happened to.
    public let message: String
    /// What to do next.
    public let remedy: String
    /// The error of the system or of Core ML that led to this one; `as NSError` gives its domain and code.
    public let underlying: (any Error)?

    /// - Parameters:
    ///   - kind: The kind of failure.
    ///   - message: What happened, and to what.
    ///   - remedy: What to do next.
    ///   - underlying: The error that led to this one.
    public init(_ kind: Kind, _ message: String, remedy: String, underlying: (any Error)? = nil) {
        self.kind = kind
        self.message = message
        self.remedy = remedy
        self.underlying = underlying
    }
}

extension KitError: Equatable {
    /// Two errors are equal if they say the same; what led to them is not compared.
    public static func == (first: KitError, second: KitError) -> Bool {
        (first.kind, first.message, first.remedy) == (second.kind, second.message, second.remedy)
    }
}

extension KitError: LocalizedError {
    /// The message, which is what `localizedDescription` shows.
    public var errorDescription: String? { message }

    /// The remedy.
    public var recoverySuggestion: String? { remedy }
}

extension KitError: CustomStringConvertible {
    /// The message, the remedy, and domain and code of the underlying error, for logs.
    public var description: String {
        let cause = underlying.map { error in
            let error = error as NSError
            return " (\(error.domain) \(error.code))"
        }
        return "\(message)\(cause ?? ""); next: \(remedy)"
    }
}
