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
    /// let cameras = try await model.predict(frames).cameras()
    /// ```
    public final class VGGTModel: Sendable {
        /// What `kit.json` says.
        public let kit: Kit
        /// The processors that Core ML may use.
        public let computeUnits: Kit.ComputeUnits
        /// Where the compiled model lies.
        public let compiledModel: URL
        private let session: ModelSession

        private init(kit: Kit, compiledModel: URL, computeUnits: Kit.ComputeUnits) {
            self.kit = kit
            self.compiledModel = compiledModel
            self.computeUnits = computeUnits
            session = ModelSession(kit: kit, compiledModel: compiledModel, computeUnits: computeUnits)
        }

        /// The frames as the model sees them.
        public var frameSize: FrameSize { kit.input.frameSize }
        /// How many frames a prediction takes.
        public var frameCount: Int { kit.input.frames }

        /// Compiles the model if it has to be, and loads it.
        ///
        /// The first time takes seconds to a minute: Core ML compiles the package and then fits it to the device. Call
        /// it before the model is needed.
        /// - Parameters:
        ///   - folder: The folder with `kit.json` and the model, such as `Bundle.main.resourceURL`.
        ///   - computeUnits: The processors that Core ML may use; those of the kit if nil.
        ///   - cache: Where compiled models are kept.
        /// - Throws: `KitError` with what to do next.
        public static func load(
            from folder: URL,
            computeUnits: Kit.ComputeUnits? = nil,
            cache: CompiledModelCache = CompiledModelCache()
        ) async throws -> VGGTModel {
            let kit = try Kit(folder: folder)
            guard kit.model.minimumOS.isReached else {
                throw KitError(
                    .unsupported,
                    "this model needs \(kit.model.minimumOS.text)",
                    remedy: "update the device, or export without 4-bit and palette weights, which iOS 17 can load"
                )
            }
            let units = computeUnits ?? kit.model.computeUnits
            do {
                return try await opened(kit, from: folder, units, cache)
            } catch let error as KitError where error.kind == .modelFailed {
                // What was compiled under another version of the system may not load: once more from the package.
                guard CompiledModelCache.modelBuiltIntoApp(of: kit, in: folder) == nil else { throw error }
                try cache.removeModel(of: kit)
                return try await opened(kit, from: folder, units, cache)
            }
        }

        private static func opened(
            _ kit: Kit, from folder: URL, _ computeUnits: Kit.ComputeUnits, _ cache: CompiledModelCache
        ) async throws -> VGGTModel {
            let compiled = try await cache.compiledModel(of: kit, in: folder)
            let model = VGGTModel(kit: kit, compiledModel: compiled, computeUnits: computeUnits)
            try await model.session.open()
            return model
        }

        /// Runs once on grey frames. The first prediction of a loaded model is slower than the others.
        ///
        /// - Throws: `KitError` if the model cannot be run.
        public func warmUp() async throws {
            let grey = try RGBImage(size: frameSize, pixels: [UInt8](repeating: 128, count: 3 * frameSize.pixelCount))
            _ = try await predict([RGBImage](repeating: grey, count: frameCount))
        }

        /// Gives the model's memory back, as after a memory warning. The next prediction loads it again.
        public func unload() async {
            await session.close()
        }

        /// Copies a frame out of its buffer and brings it to the model's size.
        ///
        /// Takes some ten milliseconds for a frame of a camera: call it where the frame arrives, but not on the main
        /// thread. The buffer can go back to its pool at once; ARKit stops when too many are held.
        /// - Parameters:
        ///   - pixelBuffer: A frame as the camera gives it.
        ///   - turn: What makes it upright; `.clockwise` for the back camera of a phone held upright.
        /// - Throws: `KitError` for a pixel format that is not supported.
        public func prepare(_ pixelBuffer: CVPixelBuffer, turn: QuarterTurn = .upright) throws -> RGBImage {
            try RGBImage(pixelBuffer).turned(turn).resized(toCover: frameSize)
        }

        /// Predicts from prepared frames.
        ///
        /// - Parameter frames: `frameCount` frames of `frameSize`; the first one's camera becomes the world.
        /// - Throws: `KitError` for other frames, or if the prediction fails; `CancellationError` in a cancelled task.
        public func predict(_ frames: [RGBImage]) async throws -> Prediction {
            guard frames.count == frameCount, frames.allSatisfy({ $0.size == frameSize }) else {
                throw KitError(
                    .wrongInput,
                    "\(frames.count) frames of \(Set(frames.map(\.size.description)).sorted()) pixels",
                    remedy: "give \(frameCount) frames of \(frameSize) pixels, made by prepare(_:turn:)"
                )
            }
            try Task.checkCancellation()
            return try await session.predict(.pictures(frames))
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
        /// - Throws: `KitError` for another number of values, or if the prediction fails; `CancellationError` in a
        ///   cancelled task.
        public func predict(images: [Float]) async throws -> Prediction {
            let expected = frameCount * 3 * frameSize.pixelCount
            guard images.count == expected else {
                throw KitError(
                    .wrongInput,
                    "\(images.count) values instead of \(expected)",
                    remedy: "give \(frameCount) x 3 x \(frameSize.height) x \(frameSize.width) values"
                )
            }
            try Task.checkCancellation()
            return try await session.predict(.planes(images))
        }
    }
#endif
