// Models of Core ML. "Compiling" copies the package into a new folder, as Core ML leaves its result in a temporary one.
// A model of a real package is run by the exporter's interpreter, where the tests were started with one.
import Foundation
import StandIn

public enum MLComputeUnits: Int, Sendable {
    case cpuOnly = 0
    case cpuAndGPU = 1
    case all = 2
    case cpuAndNeuralEngine = 3
}

public struct MLOptimizationHints: Sendable {
    public enum ReshapeFrequency: Int, Sendable {
        case frequent = 0
        case infrequent = 1
    }

    public enum SpecializationStrategy: Int, Sendable {
        case `default` = 0
        case fastPrediction = 1
    }

    public var reshapeFrequency = ReshapeFrequency.frequent
    public var specializationStrategy = SpecializationStrategy.default
}

open class MLModelConfiguration: NSObject {
    open var computeUnits: MLComputeUnits = .all
    open var optimizationHints = MLOptimizationHints()

    public override init() {}
}

@available(*, unavailable)
extension MLModelConfiguration: @unchecked Sendable {}

open class MLPredictionOptions: NSObject {
    public override init() {}
}

open class MLModel: NSObject {
    /// Not Apple's: where "compiled" models keep the package that they were made of.
    static let packageName = "package"

    public let modelDescription: MLModelDescription
    private let url: URL

    /// `+ (nullable instancetype)modelWithContentsOfURL:configuration:error:`
    public convenience init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        try self.init(compiled: url, units: configuration.computeUnits)
    }

    private init(compiled url: URL, units: MLComputeUnits) throws {
        let number = StandIn.shared.count("loads")
        let behaviour = StandIn.shared.behaviour
        StandIn.shared.count("loading")
        defer { StandIn.shared.count("loading", -1) }
        let package = url.appendingPathComponent(Self.packageName)
        guard FileManager.default.fileExists(atPath: package.path) else {
            let text = "A valid manifest does not exist at path: \(url.path)"
            throw NSError(domain: "com.apple.CoreML", code: 3, userInfo: [NSLocalizedDescriptionKey: text])
        }
        try behaviour.load?(url, number)
        self.url = url
        modelDescription = try Self.description(of: package, behaviour)
        super.init()
        StandIn.shared.count("live MLModel")
    }

    deinit { StandIn.shared.count("live MLModel", -1) }

    private static func isReal(_ package: URL) -> Bool {
        let model = package.appendingPathComponent("Data/com.apple.CoreML/model.mlmodel")
        let bytes = (try? FileManager.default.attributesOfItem(atPath: model.path)[.size] as? Int) ?? 0
        return Interpreter.socketPath != nil && bytes > 1000
    }

    private static func description(of package: URL, _ behaviour: StandIn.Behaviour) throws -> MLModelDescription {
        guard isReal(package) else {
            return MLModelDescription(
                inputs: behaviour.inputs, outputs: behaviour.outputs, metadata: behaviour.metadata
            )
        }
        let described = try Interpreter.describe(package)
        return MLModelDescription(inputs: described.inputs, outputs: described.outputs, metadata: described.metadata)
    }

    open func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        let number = StandIn.shared.count("predictions")
        let behaviour = StandIn.shared.behaviour
        StandIn.shared.count("predicting")
        defer { StandIn.shared.count("predicting", -1) }
        for _ in 0..<30_000 {
            if StandIn.shared.mayGoOn(.prediction) { break }
            Thread.sleep(forTimeInterval: 0.002)
        }
        if let predict = behaviour.predict {
            guard let answer = try predict(input, number) as? any MLFeatureProvider else {
                throw InterpreterError(description: "the test's hook gave no features")
            }
            return answer
        }
        return try interpreted(input)
    }

    /// Images go to the interpreter as it takes them: one tensor from 0 to 1.
    private func interpreted(_ input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("interpreter-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appendingPathComponent("images")
        guard let array = input.featureValue(for: "images")?.multiArrayValue else {
            throw InterpreterError(description: "the stand-in runs models of one tensor only")
        }
        try array.withUnsafeBytes { try Data($0).write(to: file) }
        let answer = try Interpreter.run(url.appendingPathComponent(Self.packageName), input: file)
        return try MLDictionaryFeatureProvider(dictionary: answer.mapValues { tensor in
            let result = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: .float32)
            let bytes = try Data(contentsOf: URL(fileURLWithPath: tensor.file))
            result.withUnsafeMutableBytes { memory, _ in memory.copyBytes(from: bytes) }
            return MLFeatureValue(multiArray: result)
        })
    }
}

@available(*, unavailable)
extension MLModel: @unchecked Sendable {}

extension MLModel {
    public class func compileModel(at url: URL) async throws -> URL {
        let number = StandIn.shared.count("compiles")
        let behaviour = StandIn.shared.behaviour
        if behaviour.compileSeconds > 0 {
            try? await Task.sleep(nanoseconds: UInt64(behaviour.compileSeconds * 1e9))
        }
        for _ in 0..<30_000 {
            if StandIn.shared.mayGoOn(.compilation) { break }
            try? await Task.sleep(nanoseconds: 2_000_000)
        }
        try behaviour.compile?(url, number)
        let files = FileManager.default
        let made = files.temporaryDirectory.appendingPathComponent("compiled-\(UUID().uuidString)/model.mlmodelc")
        try files.createDirectory(at: made, withIntermediateDirectories: true)
        try files.copyItem(at: url, to: made.appendingPathComponent(packageName))
        return made
    }

    public func prediction(
        from input: any MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> any MLFeatureProvider {
        try predictionNow(input)
    }

    private func predictionNow(_ input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        try prediction(from: input)
    }
}
