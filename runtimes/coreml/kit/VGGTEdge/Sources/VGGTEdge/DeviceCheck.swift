#if canImport(CoreML)
    import CryptoKit
    import Foundation
    import VGGTEdgeCore

    /// What the tests do, as a call: golden tensors, latency, placement. For a debug menu, or a test hosted by an app.
    ///
    /// ```swift
    /// let result = try await DeviceCheck(folder: folder).run()
    /// print(String(decoding: try result.json(), as: UTF8.self))
    /// ```
    public struct DeviceCheck: Sendable {
        /// The folder with `kit.json`, the model and the golden tensors.
        public let folder: URL
        /// The processors that Core ML may use; those of the kit if nil.
        public let computeUnits: Kit.ComputeUnits?
        /// Where compiled models are kept.
        public let cache: CompiledModelCache
        /// Predictions before the measured ones.
        public let warmUpRuns: Int
        /// Predictions that are measured, at least one.
        public let measuredRuns: Int

        /// - Parameters:
        ///   - folder: The folder with `kit.json`, the model and the golden tensors.
        ///   - computeUnits: The processors that Core ML may use; those of the kit if nil.
        ///   - cache: Where compiled models are kept.
        ///   - warmUpRuns: Predictions before the measured ones.
        ///   - measuredRuns: Predictions that are measured, at least one.
        public init(
            folder: URL,
            computeUnits: Kit.ComputeUnits? = nil,
            cache: CompiledModelCache = CompiledModelCache(),
            warmUpRuns: Int = 3,
            measuredRuns: Int = 20
        ) {
            self.folder = folder
            self.computeUnits = computeUnits
            self.cache = cache
            self.warmUpRuns = warmUpRuns
            self.measuredRuns = measuredRuns
        }

        /// Compares the files with `kit.json`, replays the golden input, measures, judges every prediction, and asks
        /// where operations run.
        ///
        /// - Returns: The figures, also where an output is too far from the simulation: look at `status`.
        /// - Throws: `KitError` if the model cannot be loaded or run, or a file is not what `kit.json` lists;
        ///   `CancellationError` in a cancelled task.
        public func run() async throws -> CheckResult {
            try checkRuns()
            let kit = try Kit(folder: folder)
            try await KitFiles(kit: kit, folder: folder).check()
            let golden = try GoldenTensors(kit: kit, folder: folder)
            let process = ProcessInfo.processInfo
            let (warmBefore, savedPower) = (process.thermalText, process.isLowPowerModeEnabled)
            let model = try await VGGTModel.load(from: folder, computeUnits: computeUnits, cache: cache)
            let runs = try await predictions(model, golden)
            let warmAfter = process.thermalText
            // The plan is made without the model in memory: two at once may be more than the device has.
            await model.unloadAndWait()
            let placement = await Self.placement(of: model)
            let measured = try Latency(milliseconds: runs.measuredMS)
            return CheckResult(
                kit: kit,
                runtime: .coreML,
                device: .current,
                thermal: ThermalStates(before: warmBefore, after: warmAfter),
                lowPowerMode: savedPower || process.isLowPowerModeEnabled,
                computeUnits: model.computeUnits,
                accuracy: try runs.judged(),
                runsUnlikeFirst: runs.unlikeFirst,
                timings: Timings(
                    compileMS: model.loadTimes.compileMS,
                    loadMS: model.loadTimes.loadMS,
                    firstPredictionMS: runs.firstMS,
                    measured: measured
                ),
                memory: runs.memory,
                placement: placement.found,
                placementError: placement.problem
            )
        }

        /// Times predictions from prepared frames to outputs.
        ///
        /// - Parameters:
        ///   - model: A loaded model.
        ///   - golden: Frames to run on; what they show does not change the time.
        /// - Throws: `KitError` if a prediction fails, nothing is to be measured, or the frames are another model's.
        public func measure(_ model: VGGTModel, golden: GoldenTensors) async throws -> Latency {
            try checkRuns()
            return try Latency(milliseconds: await predictions(model, golden).measuredMS)
        }

        private func checkRuns() throws {
            guard measuredRuns >= 1, warmUpRuns >= 0 else {
                throw KitError(
                    .wrongInput,
                    "\(measuredRuns) measured and \(warmUpRuns) other predictions",
                    remedy: "measure at least one, after none or more"
                )
            }
        }

        private func predictions(_ model: VGGTModel, _ golden: GoldenTensors) async throws -> Predictions {
            let (input, size) = (model.kit.input, model.frameSize)
            guard golden.images.shape == [1, input.frames, 3, size.height, size.width] else {
                throw KitError(
                    .wrongInput,
                    "golden frames of shape \(golden.images.shape) for \(input.frames) frames of \(size) pixels",
                    remedy: "take kit.json and the golden tensors out of the same bundle"
                )
            }
            var runs = Predictions(kit: model.kit, golden: golden)
            for number in 0..<(1 + warmUpRuns + measuredRuns) {
                let start = ContinuousClock.now
                let prediction = try await model.predict(images: golden.images.values)
                let milliseconds: Double = start.duration(to: .now) / .milliseconds(1)
                try runs.add(prediction, milliseconds: milliseconds, isMeasured: number > warmUpRuns)
            }
            runs.noteMemory()
            return runs
        }

        private static func placement(of model: VGGTModel) async -> (found: Placement?, problem: String?) {
            do {
                return (try await Placement.planned(of: model), nil)
            } catch {
                return (nil, "\(error)")
            }
        }
    }

    /// The predictions of a check: the first and the last are judged, and those between that differ from the first.
    private struct Predictions {
        let kit: Kit
        let golden: GoldenTensors
        private(set) var firstMS = 0.0
        private(set) var measuredMS = [Double]()
        private(set) var unlikeFirst = 0
        private var first: (prediction: Prediction, digest: SHA256Digest)?
        private var last: Prediction?
        private var others = [OutputAccuracy]()
        private var noted: MemoryUse?

        init(kit: Kit, golden: GoldenTensors) {
            self.kit = kit
            self.golden = golden
        }

        mutating func add(_ prediction: Prediction, milliseconds: Double, isMeasured: Bool) throws {
            if isMeasured { measuredMS.append(milliseconds) }
            let digest = try prediction.digest()
            guard let first else {
                firstMS = milliseconds
                first = (prediction, digest)
                return
            }
            last = prediction
            guard digest != first.digest else { return }
            unlikeFirst += 1
            noteMemory()
            others += try judged(prediction)
        }

        /// The largest memory before the first judgement, which needs memory of its own.
        mutating func noteMemory() { noted = noted ?? .now }

        var memory: MemoryUse { noted ?? .now }

        /// For each output the worst judgement.
        func judged() throws -> [OutputAccuracy] {
            var worst = [String: OutputAccuracy]()
            let ends = try [first?.prediction, last].compactMap { $0 }.flatMap { try judged($0) }
            for accuracy in ends + others {
                worst[accuracy.output] = worst[accuracy.output].map { OutputAccuracy.worse($0, accuracy) } ?? accuracy
            }
            return worst.values.sorted { $0.output < $1.output }
        }

        private func judged(_ prediction: Prediction) throws -> [OutputAccuracy] {
            try prediction.outputs.values.map { output in
                try OutputAccuracy(of: output.name, values: output.values(), golden: golden, tolerances: kit.tolerances)
            }
        }
    }
#endif
