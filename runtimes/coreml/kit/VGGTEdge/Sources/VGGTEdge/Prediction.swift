#if canImport(CoreML)
    import VGGTEdgeCore

    /// What the model says about some frames of one place. The world is the camera of the first frame.
    public struct Prediction: Sendable {
        /// The outputs that were exported, by name.
        public let outputs: [String: ModelOutput]
        /// How many frames went in.
        public let frames: Int
        /// The frames as the model saw them: the pixels of all maps.
        public let frameSize: FrameSize
        /// Where the centre of the first pixel lies in the point cloud, as the kit says.
        public let pixelCenters: PixelCenters

        /// Distances along the optical axis, (1, S, H, W), in units of the scene.
        public var depth: ModelOutput? { outputs["depth"] }
        /// How sure the model is of each depth, from 1 up, (1, S, H, W).
        public var depthConfidence: ModelOutput? { outputs["depth_conf"] }
        /// The world point of each pixel, (1, S, H, W, 3), in units of the scene.
        public var points: ModelOutput? { outputs["points"] }
        /// How sure the model is of each point, from 1 up, (1, S, H, W).
        public var pointsConfidence: ModelOutput? { outputs["points_conf"] }

        /// The camera of each frame.
        ///
        /// - Throws: `KitError` if the model was exported without cameras or gives none that can be used.
        public func cameras() throws -> [Camera] {
            try PoseEncoding.cameras(output("pose_enc").values(), size: frameSize)
        }

        /// The points of the most confident pixels of all frames.
        ///
        /// Taken from depth and cameras, more accurate than the point map by VGGT's authors (arXiv 2503.11651), and
        /// from the point map where one of them was not exported.
        /// - Parameters:
        ///   - share: How many pixels to keep, from 0 to 1; 1 where the confidence was not exported.
        ///   - contents: `Framing.content` of each frame, where pictures were filled up with white: those pixels have
        ///     no point. All pixels count if nil.
        /// - Throws: `KitError` if the model was exported with neither, or gave NaN or infinity, or for another number
        ///   of contents than frames.
        public func pointCloud(
            keeping share: Double = 0.5, showing contents: [FrameArea]? = nil
        ) throws -> [SIMD3<Float>] {
            let fromDepth = outputs["depth"] != nil && outputs["pose_enc"] != nil
            let shown = try contents.map { try mask($0) }
            let all = only(shown, of: try fromDepth ? unprojected() : pointMap())
            guard let confidence = fromDepth ? depthConfidence : pointsConfidence else {
                guard share == 1 else { throw noConfidence(fromDepth) }
                return all
            }
            let keep = try PointCloud.confidentPixels([only(shown, of: confidence.values())], share: share)
            return only(keep, of: all)
        }

        private func mask(_ contents: [FrameArea]) throws -> [Bool] {
            guard contents.count == frames else {
                throw KitError(
                    .wrongInput,
                    "the contents of \(contents.count) frames for a prediction of \(frames)",
                    remedy: "give VGGTModel.framing(of:).content for each frame"
                )
            }
            return PointCloud.shownPixels(contents, size: frameSize)
        }

        private func only<Value>(_ kept: [Bool]?, of values: [Value]) -> [Value] {
            guard let kept else { return values }
            return zip(values, kept).compactMap { value, isKept in isKept ? value : nil }
        }

        private func noConfidence(_ fromDepth: Bool) -> KitError {
            KitError(
                .wrongInput,
                "a share of the points, but the model has no output \(fromDepth ? "depth_conf" : "points_conf")",
                remedy: "call pointCloud(keeping: 1), or export the confidence as well"
            )
        }

        private func unprojected() throws -> [SIMD3<Float>] {
            try PointCloud.unproject(
                depth: output("depth").values(), cameras: cameras(), size: frameSize, centers: pixelCenters
            )
        }

        private func pointMap() throws -> [SIMD3<Float>] {
            try output("points").withValues { values in
                guard values.allSatisfy(\.isFinite) else {
                    throw KitError(
                        .unusableOutput,
                        "NaN or infinity among the points",
                        remedy: "run DeviceCheck; if it fails too, export again with the point head in fp32"
                    )
                }
                return stride(from: 0, to: values.count, by: 3).map { at in
                    SIMD3(values[at], values[at + 1], values[at + 2])
                }
            }
        }

        private func output(_ name: String) throws -> ModelOutput {
            guard let output = outputs[name] else {
                throw KitError(
                    .wrongInput,
                    "the model has no output \(name), only \(outputs.keys.sorted().joined(separator: ", "))",
                    remedy: "export with --outputs depth,points,camera"
                )
            }
            return output
        }
    }
#endif
