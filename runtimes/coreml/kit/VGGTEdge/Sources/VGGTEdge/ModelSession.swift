#if canImport(CoreML)
    import CoreML
    import Dispatch
    import Foundation
    import VGGTEdgeCore

    /// The loaded model, one prediction at a time.
    ///
    /// Core ML blocks the thread that calls it, for seconds while it loads: the actor therefore runs on a queue of its
    /// own and not on the threads that all Swift tasks share. Two predictions at once would need twice the memory.
    actor ModelSession {
        /// What goes into a prediction.
        enum Input: Sendable {
            case pictures([RGBImage])
            case planes([Float])
        }

        /// The plan that the exporter wrote into the model's own metadata.
        private static let planDigestKey = "vggt_edge.plan_digest"

        private let queue = DispatchSerialQueue(label: "VGGTEdge.ModelSession", qos: .userInitiated)
        nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        private let source: ModelSource
        private let control: SessionControl
        private var opened: OpenModel?

        private var kit: Kit { source.kit }

        init(source: ModelSource, control: SessionControl) {
            self.source = source
            self.control = control
        }

        /// Whether the model is in memory.
        var isOpen: Bool { opened != nil }

        /// Where the model in memory was loaded from.
        var compiledModel: URL? { opened?.url }

        /// Loads a compiled model; milliseconds that it took.
        func open(_ compiled: URL) throws -> Double {
            let start = ContinuousClock.now
            let model: MLModel
            do {
                model = try autoreleasepool { try MLModel(contentsOf: compiled, configuration: source.configuration) }
            } catch {
                throw KitError(
                    .modelFailed,
                    "Core ML cannot load the model: \(error.localizedDescription)",
                    remedy: "check the free memory; the model needs \(kit.model.minimumOS.text)",
                    underlying: error
                )
            }
            try check(model.modelDescription)
            opened = OpenModel(model: model, url: compiled)
            return start.duration(to: .now) / .milliseconds(1)
        }

        /// Gives the model's memory back if that was asked for; the next prediction loads it again.
        func closeIfAsked() {
            guard let waiting = control.takeUnloadRequest() else { return }
            opened = nil
            for continuation in waiting { continuation.resume() }
        }

        /// A prediction, or nil where the model is not in memory.
        func predict(_ input: Input) throws -> Prediction? {
            try Task.checkCancellation()
            guard let opened else { return nil }
            defer { closeIfAsked() }
            return try autoreleasepool { try run(opened.model, on: input) }
        }

        private func run(_ model: MLModel, on input: Input) throws -> Prediction {
            let result: any MLFeatureProvider
            do {
                let features = try MLDictionaryFeatureProvider(dictionary: featureValues(of: input))
                result = try model.prediction(from: features)
            } catch let error as KitError {
                throw error
            } catch {
                throw KitError(
                    .modelFailed,
                    "the prediction failed: \(error.localizedDescription)",
                    remedy: "check the free memory; load with computeUnits .cpuOnly to tell the device from the model",
                    underlying: error
                )
            }
            let expected = kit.input
            return try Prediction(
                outputs: outputs(of: result),
                frames: expected.frames,
                frameSize: expected.frameSize,
                pixelCenters: kit.pixelCenters
            )
        }

        /// The model is the one that `kit.json` describes.
        private func check(_ description: MLModelDescription) throws {
            let stored = description.metadata[.creatorDefinedKey] as? [String: String]
            let isComplete = Set(description.inputDescriptionsByName.keys) == Set(kit.input.names)
                && Set(description.outputDescriptionsByName.keys).isSuperset(of: kit.outputs.map(\.name))
            guard isComplete, stored?[Self.planDigestKey] == kit.planDigest else {
                throw KitError(
                    .damagedFile,
                    "the model is not the one that kit.json describes",
                    remedy: "take both out of the same bundle, and clean the build folder if Xcode compiled the model"
                )
            }
        }

        private func featureValues(of input: Input) throws -> [String: MLFeatureValue] {
            switch kit.input.kind {
            case .tensor: return ["images": MLFeatureValue(multiArray: try tensor(of: input))]
            case .image:
                let buffers = try pictures(of: input).map { MLFeatureValue(pixelBuffer: try $0.pixelBuffer()) }
                return Dictionary(uniqueKeysWithValues: zip(kit.input.names, buffers))
            }
        }

        /// `images`, (1, S, 3, H, W). A fresh array has no gaps, which is checked all the same.
        private func tensor(of input: Input) throws -> MLMultiArray {
            let size = kit.input.frameSize
            let shape = [1, kit.input.frames, 3, size.height, size.width]
            let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float32)
            try array.withUnsafeMutableBytes { bytes, strides in
                let layout = try StridedLayout(shape: shape, strides: strides)
                let values = bytes.bindMemory(to: Float.self)
                guard layout.isContiguous, values.count >= layout.count else {
                    throw KitError(
                        .modelFailed,
                        "a new array of shape \(shape) has the strides \(strides)",
                        remedy: "report this with the version of the system"
                    )
                }
                try Self.write(input, to: UnsafeMutableBufferPointer(rebasing: values[..<layout.count]))
            }
            return array
        }

        private static func write(_ input: Input, to values: UnsafeMutableBufferPointer<Float>) throws {
            switch input {
            case .planes(let planes):
                _ = values.update(fromContentsOf: planes)
            case .pictures(let pictures):
                let length = values.count / pictures.count
                for (index, picture) in pictures.enumerated() {
                    let part = values[(index * length)..<((index + 1) * length)]
                    try picture.writePlanes(to: UnsafeMutableBufferPointer(rebasing: part))
                }
            }
        }

        private func pictures(of input: Input) throws -> [RGBImage] {
            let size = kit.input.frameSize
            switch input {
            case .pictures(let pictures): return pictures
            case .planes(let planes):
                let length = 3 * size.pixelCount
                return try stride(from: 0, to: planes.count, by: length).map { start in
                    try RGBImage(planes: planes[start..<(start + length)], size: size)
                }
            }
        }

        private func outputs(of result: any MLFeatureProvider) throws -> [String: ModelOutput] {
            var outputs = [String: ModelOutput]()
            for expected in kit.outputs {
                guard let array = result.featureValue(for: expected.name)?.multiArrayValue,
                    array.shape.map(\.intValue) == expected.shape
                else {
                    throw KitError(
                        .unusableOutput,
                        "the output \(expected.name) is missing or has another shape than \(expected.shape)",
                        remedy: "take kit.json and the model out of the same bundle"
                    )
                }
                outputs[expected.name] = try ModelOutput(name: expected.name, array: array)
            }
            return outputs
        }
    }

    /// A model in memory; known to `OpenModels` as long as it lives.
    private final class OpenModel {
        let model: MLModel
        let url: URL

        init(model: MLModel, url: URL) {
            self.model = model
            self.url = url
            OpenModels.shared.add(url)
        }

        deinit { OpenModels.shared.remove(url) }
    }

    extension Kit.MinimumOS {
        /// For messages.
        var text: String { "iOS \(iOS), macOS \(macOS) or visionOS \(visionOS)" }

        /// Whether this system is new enough.
        var isReached: Bool {
            #if os(macOS)
                let major = macOS
            #elseif os(visionOS)
                let major = visionOS
            #else
                let major = iOS
            #endif
            let version = OperatingSystemVersion(majorVersion: major, minorVersion: 0, patchVersion: 0)
            return ProcessInfo.processInfo.isOperatingSystemAtLeast(version)
        }
    }
#endif
