#if canImport(CoreML)
    import Accelerate
    import CoreML
    import Foundation
    import VGGTEdgeCore

    /// One output of a prediction, in the memory that Core ML wrote it to.
    ///
    /// Unchecked, because `MLMultiArray` is a class without a word on threads: each prediction has arrays of its own,
    /// nothing here writes to one, and none leaves but through `withMultiArray`, whose closure must not write either.
    public struct ModelOutput: @unchecked Sendable {
        /// `pose_enc`, `depth`, `depth_conf`, `points`, `points_conf`, `sky`, `rays` or `ray_conf`.
        public let name: String
        /// Its sides, the batch of 1 first.
        public let shape: [Int]
        private let array: MLMultiArray
        private let layout: StridedLayout

        /// - Throws: `KitError` for an array of another type than float32 and float16, or without sane strides.
        init(name: String, array: MLMultiArray) throws {
            self.name = name
            self.array = array
            shape = array.shape.map(\.intValue)
            layout = try StridedLayout(shape: shape, strides: array.strides.map(\.intValue))
            guard array.dataType == .float32 || array.dataType == .float16 else { throw otherType() }
        }

        /// The values in row-major order: one copy, gaps between rows left out, float16 widened.
        ///
        /// - Throws: `KitError` for an array of another type.
        public func values() throws -> [Float] {
            try array.withUnsafeBytes { bytes -> [Float] in
                switch array.dataType {
                case .float32: return try layout.gather(bytes.bindMemory(to: Float.self))
                case .float16: return try layout.gather(bytes.bindMemory(to: UInt16.self)).widened()
                default: throw otherType()
                }
            }
        }

        /// Calls `body` with the values in row-major order, without a copy where Core ML left no gaps.
        ///
        /// - Parameter body: Must not keep the buffer.
        /// - Returns: What `body` returns.
        /// - Throws: `KitError` for an array of another type, and what `body` throws.
        public func withValues<Value>(_ body: (UnsafeBufferPointer<Float>) throws -> Value) throws -> Value {
            guard array.dataType == .float32, layout.isContiguous else {
                return try values().withUnsafeBufferPointer(body)
            }
            return try array.withUnsafeBytes { bytes -> Value in
                let values = bytes.bindMemory(to: Float.self)
                try layout.checkFits(in: values.count)
                return try body(UnsafeBufferPointer(rebasing: values[..<layout.count]))
            }
        }

        /// Calls `body` with the array itself, for Core ML or Metal code that takes one.
        ///
        /// - Parameter body: Must not write to the array.
        /// - Returns: What `body` returns.
        /// - Throws: What `body` throws.
        public func withMultiArray<Value>(_ body: (MLMultiArray) throws -> Value) rethrows -> Value {
            try body(array)
        }

        private func otherType() -> KitError {
            KitError(
                .unusableOutput,
                "the output \(name) has the type \(array.dataType.rawValue), neither float32 nor float16",
                remedy: "take kit.json and the model out of the same bundle"
            )
        }
    }

    extension Array where Element == UInt16 {
        /// The float16 values with these bits. By Accelerate, since `Float16` does not exist on Intel Macs.
        fileprivate func widened() throws -> [Float] {
            var halves = self
            var status: vImage_Error = kvImageNoError
            let floats = [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
                status = halves.withUnsafeMutableBytes { source in
                    var from = vImage_Buffer(
                        data: source.baseAddress, height: 1, width: vImagePixelCount(count), rowBytes: 2 * count
                    )
                    var to = vImage_Buffer(
                        data: buffer.baseAddress, height: 1, width: vImagePixelCount(count), rowBytes: 4 * count
                    )
                    return vImageConvert_Planar16FtoPlanarF(&from, &to, vImage_Flags(kvImageNoFlags))
                }
                initialized = status == kvImageNoError ? count : 0
            }
            guard status == kvImageNoError else {
                throw KitError(
                    .unusableOutput,
                    "float16 values cannot be widened (Accelerate says \(status))",
                    remedy: "report this with the version of the system"
                )
            }
            return floats
        }
    }
#endif
