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

        private let kit: Kit
        private let compiledModel: URL
        private let computeUnits: Kit.ComputeUnits
        private var model: MLModel?

        init(kit: Kit, compiledModel: URL, computeUnits: Kit.ComputeUnits) {
            self.kit = kit
            self.compiledModel = compiledModel
            self.computeUnits = computeUnits
        }

        /// Loads the model unless it is loaded.
        func open() throws {
            _ = try openedModel()
        }

        /// Gives the model's memory back; the next prediction loads it again.
        func close() {
            model = nil
        }

        func predict(_ input: Input) throws -> Prediction {
            let opened = try openedModel()
            return try autoreleasepool { try run(opened, on: input) }
        }

        private func run(_ model: MLModel, on input: Input) throws -> Prediction {
            let features = try MLDictionaryFeatureProvider(dictionary: featureValues(of: input))
            let result: any MLFeatureProvider
            do {
                result = try model.prediction(from: features)
            } catch {
                throw KitError(
                    .modelFailed,
                    "the prediction failed: \(error.localizedDescription)",
                    remedy: "check the free memory; load with computeUnits .cpuOnly to tell the device from the model"
                )
            }
            let expected = kit.input
            return try Prediction(outputs: outputs(of: result), frames: expected.frames, frameSize: expected.frameSize)
        }

        private func openedModel() throws -> MLModel {
            if let model { return model }
            let opened: MLModel
            do {
                opened = try MLModel(contentsOf: compiledModel, configuration: computeUnits.configuration)
            } catch {
                throw KitError(
                    .modelFailed,
                    "Core ML cannot load the model: \(error.localizedDescription)",
                    remedy: "check the free memory; the model needs \(kit.model.minimumOS.text)"
                )
            }
            try check(opened.modelDescription)
            model = opened
            return opened
        }

        /// The model is the one that `kit.json` describes.
        private func check(_ description: MLModelDescription) throws {
            let stored = description.metadata[.creatorDefinedKey] as? [String: String]
            let digest = stored?[Self.planDigestKey] ?? kit.planDigest
            let isComplete = Set(description.inputDescriptionsByName.keys) == Set(kit.input.names)
                && Set(description.outputDescriptionsByName.keys).isSuperset(of: kit.outputs.map(\.name))
            guard isComplete, digest == kit.planDigest else {
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
                guard try StridedLayout(shape: shape, strides: strides).isContiguous else {
                    throw KitError(
                        .modelFailed,
                        "a new array of shape \(shape) has the strides \(strides)",
                        remedy: "report this with the version of the system"
                    )
                }
                Self.write(input, to: bytes.bindMemory(to: Float.self))
            }
            return array
        }

        private static func write(_ input: Input, to values: UnsafeMutableBufferPointer<Float>) {
            switch input {
            case .planes(let planes):
                _ = values.update(fromContentsOf: planes)
            case .pictures(let pictures):
                let length = values.count / pictures.count
                for (index, picture) in pictures.enumerated() {
                    let part = values[(index * length)..<((index + 1) * length)]
                    picture.writePlanes(to: UnsafeMutableBufferPointer(rebasing: part))
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
                outputs[expected.name] = ModelOutput(name: expected.name, array: array)
            }
            return outputs
        }
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
