import Foundation

/// What went wrong and what to do next. Everything that this package throws on purpose is a `KitError`.
public struct KitError: Error, Equatable, Sendable {
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

    /// - Parameters:
    ///   - kind: The kind of failure.
    ///   - message: What happened, and to what.
    ///   - remedy: What to do next.
    public init(_ kind: Kind, _ message: String, remedy: String) {
        self.kind = kind
        self.message = message
        self.remedy = remedy
    }
}

extension KitError: LocalizedError {
    /// The message, which is what `localizedDescription` shows.
    public var errorDescription: String? { message }

    /// The remedy.
    public var recoverySuggestion: String? { remedy }
}

extension KitError: CustomStringConvertible {
    /// The message and the remedy, for logs.
    public var description: String { "\(message); next: \(remedy)" }
}
