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

        /// Compares the files with `kit.json`, replays the golden input, measures, and asks where operations run.
        ///
        /// - Returns: The figures, also where an output is too far from the simulation: look at `passed`.
        /// - Throws: `KitError` if the model cannot be loaded or run, or a file is not what `kit.json` lists.
        public func run() async throws -> CheckResult {
            let kit = try Kit(folder: folder)
            try checkFiles(of: kit)
            let golden = try GoldenTensors(kit: kit, folder: folder)
            let start = ContinuousClock.now
            let model = try await VGGTModel.load(from: folder, computeUnits: computeUnits, cache: cache)
            let prediction = try await model.predict(images: golden.images.values)
            let loadSeconds: Double = start.duration(to: .now) / Duration.seconds(1)
            let accuracy = try Self.judge(prediction, golden: golden, kit: kit)
            let latency = try await measure(model, golden: golden)
            let placement = try await Placement.planned(of: model)
            return CheckResult(
                kit: kit,
                device: .current,
                computeUnits: model.computeUnits,
                accuracy: accuracy,
                latency: latency,
                loadSeconds: loadSeconds,
                peakMemoryBytes: ProcessMemory.peakBytes,
                placement: placement
            )
        }

        /// Times predictions from prepared frames to outputs.
        ///
        /// - Parameters:
        ///   - model: A loaded model.
        ///   - golden: Frames to run on; what they show does not change the time.
        /// - Throws: `KitError` if a prediction fails, or nothing is to be measured.
        public func measure(_ model: VGGTModel, golden: GoldenTensors) async throws -> Latency {
            let length = 3 * model.frameSize.pixelCount
            let frames = try stride(from: 0, to: golden.images.values.count, by: length).map { start in
                try RGBImage(planes: golden.images.values[start..<(start + length)], size: model.frameSize)
            }
            for _ in 0..<max(0, warmUpRuns) { _ = try await model.predict(frames) }
            var times = [Double]()
            for _ in 0..<max(0, measuredRuns) {
                let start = ContinuousClock.now
                _ = try await model.predict(frames)
                times.append(start.duration(to: .now) / Duration.milliseconds(1))
            }
            return try Latency(milliseconds: times)
        }

        private static func judge(
            _ prediction: Prediction, golden: GoldenTensors, kit: Kit
        ) throws -> [OutputAccuracy] {
            try prediction.outputs.sorted { $0.key < $1.key }.map { name, output in
                try OutputAccuracy(of: name, values: output.values(), golden: golden, tolerances: kit.tolerances)
            }
        }

        /// The golden tensors and the package are byte for byte what was exported. A model that Xcode compiled has no
        /// package any more, and nothing to compare.
        private func checkFiles(of kit: Kit) throws {
            if let golden = kit.golden {
                try check(folder.appending(path: golden.file), sha256: golden.sha256)
            }
            guard CompiledModelCache.modelBuiltIntoApp(of: kit, in: folder) == nil else { return }
            let package = folder.appending(path: kit.model.package, directoryHint: .isDirectory)
            for (path, sha256) in kit.model.files.sorted(by: { $0.key < $1.key }) {
                try check(package.appending(path: path), sha256: sha256)
            }
        }

        private func check(_ file: URL, sha256: String) throws {
            let found: String
            do {
                found = try Self.sha256(of: file)
            } catch {
                throw Self.damaged(file, "cannot be read: \(error.localizedDescription)")
            }
            guard found == sha256 else { throw Self.damaged(file, "is not the file that kit.json lists") }
        }

        private static func damaged(_ file: URL, _ reason: String) -> KitError {
            KitError(.damagedFile, "\(file.lastPathComponent) \(reason)", remedy: "copy it from the bundle again")
        }

        private static func sha256(of file: URL) throws -> String {
            let handle = try FileHandle(forReadingFrom: file)
            defer { try? handle.close() }
            var hash = SHA256()
            while let part = try handle.read(upToCount: 1 << 20), !part.isEmpty {
                hash.update(data: part)
            }
            return hash.finalize().map { String(format: "%02x", $0) }.joined()
        }
    }

    extension DeviceDescription {
        /// This device, now.
        public static var current: DeviceDescription {
            let process = ProcessInfo.processInfo
            return DeviceDescription(
                model: process.environment["SIMULATOR_MODEL_IDENTIFIER"] ?? machine,
                system: process.operatingSystemVersionString,
                thermalState: process.thermalState.text,
                isSimulator: isSimulator
            )
        }

        private static var machine: String {
            var names = utsname()
            guard uname(&names) == 0 else { return "unknown" }
            return withUnsafeBytes(of: &names.machine) { bytes in
                String(decoding: bytes.prefix(while: { $0 != 0 }), as: UTF8.self)
            }
        }

        private static var isSimulator: Bool {
            #if targetEnvironment(simulator)
                return true
            #else
                return false
            #endif
        }
    }

    extension ProcessInfo.ThermalState {
        fileprivate var text: String {
            switch self {
            case .nominal: return "nominal"
            case .fair: return "fair"
            case .serious: return "serious"
            case .critical: return "critical"
            @unknown default: return "unknown"
            }
        }
    }

    enum ProcessMemory {
        /// The largest resident size of this process so far. The system's limit for an app counts a little differently.
        static var peakBytes: Int {
            var usage = rusage()
            guard getrusage(RUSAGE_SELF, &usage) == 0 else { return 0 }
            return usage.ru_maxrss
        }
    }
#endif
