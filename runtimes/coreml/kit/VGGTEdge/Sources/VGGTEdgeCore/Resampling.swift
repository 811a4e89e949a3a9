/// Which source samples make one output sample along one axis, and with which weights.
///
/// Bicubic (a = -0.5) with antialiasing, in fixed point with 22 bits. It is the arithmetic of Pillow's resize for 8-bit
/// pictures, which the exporter's readers use: the same frame gives the same bytes here and there (Pillow 13).
struct ResamplingKernel: Sendable {
    /// The source samples of one output sample.
    struct Window: Equatable, Sendable {
        let first: Int
        let count: Int
    }

    /// Bits behind the point of a weight.
    static let precision: Int32 = 22
    /// Half the width of the bicubic, in samples of the coarser grid.
    private static let support = 2.0

    /// One per output sample.
    let windows: [Window]
    /// `stride` weights per output sample, of which the window's `count` are used.
    let weights: [Int32]
    /// From the weights of one output sample to those of the next.
    let stride: Int

    /// - Parameters:
    ///   - sourceLength: Samples of the source along this axis.
    ///   - start: Where the part that is shown begins, in source samples.
    ///   - end: Where it ends.
    ///   - outputLength: Samples of the output.
    init(sourceLength: Int, from start: Float, to end: Float, outputLength: Int) {
        let scale = Double(end - start) / Double(outputLength)
        let filterScale = max(scale, 1)
        let reach = Self.support * filterScale
        let narrowing = 1 / filterScale
        stride = Int(reach.rounded(.up)) * 2 + 1
        var windows = [Window]()
        var weights = [Int32](repeating: 0, count: outputLength * stride)
        for index in 0..<outputLength {
            let center = Double(start) + (Double(index) + 0.5) * scale
            let first = max(0, Int(center - reach + 0.5))
            let count = min(sourceLength, Int(center + reach + 0.5)) - first
            let exact = (0..<count).map { Self.bicubic((Double($0 + first) - center + 0.5) * narrowing) }
            let total = exact.reduce(0, +)
            for (offset, weight) in exact.enumerated() {
                weights[index * stride + offset] = Self.fixedPoint(total == 0 ? weight : weight / total)
            }
            windows.append(Window(first: first, count: count))
        }
        self.windows = windows
        self.weights = weights
    }

    private static func bicubic(_ position: Double) -> Double {
        let x = abs(position)
        if x < 1 { return ((1.5 * x - 2.5) * x) * x + 1 }
        if x < 2 { return (((x - 5) * x + 8) * x - 4) * -0.5 }
        return 0
    }

    /// Rounds halves away from zero.
    private static func fixedPoint(_ weight: Double) -> Int32 {
        Int32(weight * Double(1 << precision) + (weight < 0 ? -0.5 : 0.5))
    }
}

extension RGBImage {
    /// The picture scaled until it covers `target` and cropped evenly.
    ///
    /// Scale and crop are one bicubic, antialiased resampling, so that the crop may fall between pixels and
    /// `Intrinsics.resized(from:toCover:)` is exact. Give the model frames of about its own aspect ratio: what the crop
    /// takes away is not seen.
    /// - Throws: `KitError` for a target that is not made of whole patches.
    public func resized(toCover target: FrameSize) throws -> RGBImage {
        guard target.isWholePatches else {
            throw KitError(
                .wrongInput,
                "a model input of \(target) pixels is not made of whole patches",
                remedy: "use the size in kit.json; both sides are multiples of \(FrameSize.patch)"
            )
        }
        let crop = FrameCrop(from: size, toCover: target)
        let (left, right) = (Float(crop.left), Float(crop.left + crop.width))
        let (top, bottom) = (Float(crop.top), Float(crop.top + crop.height))
        let across: Pass = { image in
            if target.width == image.size.width && left == 0 && right == Float(target.width) { return image }
            return image.resampledAcross(
                ResamplingKernel(sourceLength: image.size.width, from: left, to: right, outputLength: target.width)
            )
        }
        let down: Pass = { image in
            if target.height == image.size.height && top == 0 && bottom == Float(target.height) { return image }
            return image.resampledDown(
                ResamplingKernel(sourceLength: image.size.height, from: top, to: bottom, outputLength: target.height)
            )
        }
        // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
        let dropsRows = size.height - target.height
        let isDownFirst = dropsRows > 0 && dropsRows > 2 * (size.width - target.width)
        return isDownFirst ? across(down(self)) : down(across(self))
    }

    private typealias Pass = (RGBImage) -> RGBImage

    /// Every row on its own.
    private func resampledAcross(_ kernel: ResamplingKernel) -> RGBImage {
        let output = FrameSize(width: kernel.windows.count, height: size.height)
        return Self.filled(output, from: self, kernel) { source, weights, result in
            for row in 0..<output.height {
                for column in 0..<output.width {
                    let window = kernel.windows[column]
                    let sums = Self.weighted(
                        source,
                        from: 3 * (row * size.width + window.first),
                        step: 3,
                        weights,
                        from: column * kernel.stride,
                        count: window.count
                    )
                    Self.store(sums, in: result, at: 3 * (row * output.width + column))
                }
            }
        }
    }

    /// Every column on its own.
    private func resampledDown(_ kernel: ResamplingKernel) -> RGBImage {
        let output = FrameSize(width: size.width, height: kernel.windows.count)
        return Self.filled(output, from: self, kernel) { source, weights, result in
            for row in 0..<output.height {
                let window = kernel.windows[row]
                for column in 0..<output.width {
                    let sums = Self.weighted(
                        source,
                        from: 3 * (window.first * size.width + column),
                        step: 3 * size.width,
                        weights,
                        from: row * kernel.stride,
                        count: window.count
                    )
                    Self.store(sums, in: result, at: 3 * (row * output.width + column))
                }
            }
        }
    }

    private static func filled(
        _ size: FrameSize,
        from image: RGBImage,
        _ kernel: ResamplingKernel,
        _ body: (UnsafeBufferPointer<UInt8>, UnsafeBufferPointer<Int32>, UnsafeMutableBufferPointer<UInt8>) -> Void
    ) -> RGBImage {
        var result = [UInt8](repeating: 0, count: 3 * size.pixelCount)
        image.pixels.withUnsafeBufferPointer { source in
            kernel.weights.withUnsafeBufferPointer { weights in
                result.withUnsafeMutableBufferPointer { body(source, weights, $0) }
            }
        }
        return RGBImage(uncheckedSize: size, pixels: result)
    }

    /// Red, green and blue of one output pixel, in fixed point.
    @inline(__always)
    private static func weighted(
        _ source: UnsafeBufferPointer<UInt8>,
        from pixel: Int,
        step: Int,
        _ weights: UnsafeBufferPointer<Int32>,
        from weight: Int,
        count: Int
    ) -> SIMD3<Int32> {
        // One half, so that cutting the fraction off rounds.
        var sums = SIMD3<Int32>(repeating: 1 << (ResamplingKernel.precision - 1))
        for index in 0..<count {
            let start = pixel + index * step
            let color = SIMD3(Int32(source[start]), Int32(source[start + 1]), Int32(source[start + 2]))
            sums &+= color &* weights[weight + index]
        }
        return sums
    }

    @inline(__always)
    private static func store(_ sums: SIMD3<Int32>, in result: UnsafeMutableBufferPointer<UInt8>, at start: Int) {
        for channel in 0..<3 {
            result[start + channel] = UInt8(clamping: sums[channel] >> ResamplingKernel.precision)
        }
    }
}
