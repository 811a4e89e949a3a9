#if canImport(CoreML)
    import CoreML
    import CoreVideo
    import Foundation
    import VGGTEdgeCore

    /// VGGT on the device: a few frames of one place in, cameras, depth and points out.
    ///
    /// Can be shared between tasks; predictions run one after another.
    ///
    /// ```swift
    /// let model = try await VGGTModel.load(from: folder)
    /// let frames = try buffers.map { try model.prepare($0) }
    /// print(try await model.predict(frames).cameras())
    /// ```
    public final class VGGTModel: Sendable {
        /// What `kit.json` says.
        public let kit: Kit
        /// The processors that Core ML may use.
        public let computeUnits: Kit.ComputeUnits
        /// Where the compiled model lies.
        public let compiledModel: URL
        let loadTimes: LoadTimes
        private let source: ModelSource
        private let session: ModelSession
        private let control: SessionControl

        private init(
            _ source: ModelSource,
            _ session: ModelSession,
            _ control: SessionControl,
            _ compiled: URL,
            _ times: LoadTimes
        ) {
            kit = source.kit
            computeUnits = source.computeUnits
            compiledModel = compiled
            loadTimes = times
            self.source = source
            self.session = session
            self.control = control
        }

        /// The frames as the model sees them.
        public var frameSize: FrameSize { kit.input.frameSize }
        /// How many frames a prediction takes.
        public var frameCount: Int { kit.input.frames }
        /// Whether a prediction runs or waits. Dropping frames while it does keeps the latest one first: predictions
        /// that are asked for meanwhile wait without bound, each with its frames in memory.
        public var isBusy: Bool { control.isBusy }
        var configuration: MLModelConfiguration { source.configuration }

        /// Compiles the model if it has to be, and loads it.
        ///
        /// The first time takes seconds to minutes: Core ML compiles the package and then fits it to the device. Call
        /// it before the model is needed. Loads of one model run one after another, and share one compilation.
        /// - Parameters:
        ///   - folder: The folder with `kit.json` and the model, such as `Bundle.main.resourceURL`.
        ///   - computeUnits: The processors that Core ML may use; those of the kit if nil.
        ///   - cache: Where compiled models are kept.
        ///   - progress: Called when a stage begins, on any thread.
        ///   - configure: Changes the configuration before each load, such as its `optimizationHints`.
        /// - Throws: `KitError` with what to do next; `CancellationError` at once in a cancelled task. A compilation
        ///   that has begun ends all the same, and is kept for the next load.
        public static func load(
            from folder: URL,
            computeUnits: Kit.ComputeUnits? = nil,
            cache: CompiledModelCache = CompiledModelCache(),
            progress: (@Sendable (LoadStage) -> Void)? = nil,
            configure: (@Sendable (MLModelConfiguration) -> Void)? = nil
        ) async throws -> VGGTModel {
            try Task.checkCancellation()
            let kit = try Kit(folder: folder)
            guard kit.model.minimumOS.isReached else {
                throw KitError(
                    .unsupported,
                    "this model needs \(kit.model.minimumOS.text)",
                    remedy: "update the device, or export without 4-bit and palette weights, which iOS 17 can load"
                )
            }
            let units = computeUnits ?? kit.model.computeUnits
            let source = ModelSource(kit: kit, folder: folder, cache: cache, computeUnits: units, configure: configure)
            let control = SessionControl()
            let session = ModelSession(source: source, control: control)
            let times = try await source.open(session, progress: progress)
            guard let compiled = await session.compiledModel, let times else { throw CancellationError() }
            return VGGTModel(source, session, control, compiled, times)
        }

        /// Compiles the model and runs it once, then gives its memory back: the next `load` is fast. For the first
        /// start after an installation or an update, while the app shows something else.
        ///
        /// - Parameters:
        ///   - folder: The folder with `kit.json` and the model.
        ///   - computeUnits: The processors that Core ML may use; those of the kit if nil.
        ///   - cache: Where compiled models are kept.
        ///   - progress: Called when a stage begins, on any thread.
        /// - Throws: As `load` and `predict`.
        public static func prewarm(
            from folder: URL,
            computeUnits: Kit.ComputeUnits? = nil,
            cache: CompiledModelCache = CompiledModelCache(),
            progress: (@Sendable (LoadStage) -> Void)? = nil
        ) async throws {
            let model = try await load(from: folder, computeUnits: computeUnits, cache: cache, progress: progress)
            progress?(.firstPrediction)
            try await model.warmUp()
        }

        /// Runs once on grey frames. The first prediction of a loaded model is slower than the others.
        ///
        /// - Throws: `KitError` if the model cannot be run.
        public func warmUp() async throws {
            let grey = try RGBImage(size: frameSize, pixels: [UInt8](repeating: 128, count: 3 * frameSize.pixelCount))
            _ = try await predict([RGBImage](repeating: grey, count: frameCount))
        }

        /// Gives the model's memory back, as after a memory warning: at once, or when the prediction that runs has
        /// ended, before those that wait. Returns at once. The next prediction loads the model again.
        public func unload() {
            control.askToUnload()
            Task { [session] in await session.closeIfAsked() }
        }

        /// The same, and waits until the memory was given back.
        public func unloadAndWait() async {
            await withCheckedContinuation { continuation in
                control.askToUnload(continuation)
                Task { [session] in await session.closeIfAsked() }
            }
        }

        private var frame: ModelFrame { ModelFrame(frameSize, by: kit.preprocess) }

        /// Where the pixels of an upright picture land in the model's input, by the rule that the model was exported
        /// with: which part is white, how intrinsics change, and the way back to the picture.
        ///
        /// - Parameter size: The size of the picture, upright.
        /// - Throws: As `Framing.init(from:to:by:)`.
        public func framing(of size: FrameSize) throws -> Framing {
            try Framing(from: size, to: frameSize, by: kit.preprocess)
        }

        /// Copies a frame out of its buffer and brings it to the model's size, in sRGB, by the kit's `preprocess`.
        ///
        /// Call it where the frame arrives, but not on the main thread: a frame of 1920 x 1440 takes some tens of
        /// milliseconds in a Release build, and seconds in a Debug build. The buffer can go back to its pool at once;
        /// ARKit stops when too many are held.
        /// - Parameters:
        ///   - pixelBuffer: A frame as the camera gives it.
        ///   - turn: What makes it upright; `.clockwise` for the back camera of a phone held upright.
        /// - Throws: `KitError` for a pixel format, or a colour space, that is not supported.
        public func prepare(_ pixelBuffer: CVPixelBuffer, turn: QuarterTurn = .upright) throws -> RGBImage {
            try RGBImage.image(of: pixelBuffer, turn: turn, to: frame)
        }

        /// The same for a picture in a file, which is turned as its EXIF orientation says.
        ///
        /// - Parameter url: A JPEG, PNG, HEIC or other file that the system reads.
        /// - Throws: As `RGBImage.init(contentsOf:)`.
        public func prepare(contentsOf url: URL) throws -> RGBImage {
            try RGBImage.image(contentsOf: url, to: frame)
        }

        /// Predicts from prepared frames.
        ///
        /// - Parameter frames: `frameCount` frames of `frameSize`; the first one's camera becomes the world.
        /// - Throws: `KitError` for other frames, or if the prediction fails; `CancellationError` at once in a
        ///   cancelled task. A prediction that runs cannot be stopped; one that waits does not run.
        public func predict(_ frames: [RGBImage]) async throws -> Prediction {
            guard frames.count == frameCount, frames.allSatisfy({ $0.size == frameSize }) else {
                throw KitError(
                    .wrongInput,
                    "\(frames.count) frames of \(Set(frames.map(\.size.description)).sorted()) pixels",
                    remedy: "give \(frameCount) frames of \(frameSize) pixels, made by prepare(_:turn:)"
                )
            }
            return try await predict(input: .pictures(frames))
        }

        /// Predicts from frames as the camera gives them: `prepare` and `predict` in one call.
        ///
        /// The buffers do not leave the caller's actor; they are copied on it, so do not call this on the main actor.
        /// - Parameters:
        ///   - frames: `frameCount` buffers.
        ///   - turn: What makes them upright.
        ///   - isolation: The caller's actor; leave it out.
        /// - Throws: `KitError` for other frames, or if the prediction fails; `CancellationError` in a cancelled task.
        public func predict(
            frames: [CVPixelBuffer],
            turn: QuarterTurn = .upright,
            isolation: isolated (any Actor)? = #isolation
        ) async throws -> Prediction {
            let prepared = try frames.map { try prepare($0, turn: turn) }
            return try await predict(prepared)
        }

        /// Predicts from values, for tests and for pictures from elsewhere.
        ///
        /// - Parameter images: (frames, 3, height, width) in row-major order, RGB from 0 to 1. A model that takes
        ///   pictures gets them rounded to 8 bits.
        /// - Throws: `KitError` for another number of values, a value outside 0 to 1 or NaN, or if the prediction
        ///   fails; `CancellationError` in a cancelled task.
        public func predict(images: [Float]) async throws -> Prediction {
            let expected = frameCount * 3 * frameSize.pixelCount
            guard images.count == expected, images.allSatisfy({ (0...1).contains($0) }) else {
                throw KitError(
                    .wrongInput,
                    "\(images.count) values, or values outside 0 to 1, instead of \(expected) from 0 to 1",
                    remedy: "give \(frameCount) x 3 x \(frameSize.height) x \(frameSize.width) levels divided by 255"
                )
            }
            return try await predict(input: .planes(images))
        }

        /// Loads the model again where its memory was given back, also between two attempts.
        private func predict(input: ModelSession.Input) async throws -> Prediction {
            try Task.checkCancellation()
            control.begin()
            let work = Task { [source, session, control] in
                defer { control.end() }
                while true {
                    if let prediction = try await session.predict(input) { return prediction }
                    _ = try await source.open(session)
                }
            }
            return try await value(of: work)
        }
    }
#endif
