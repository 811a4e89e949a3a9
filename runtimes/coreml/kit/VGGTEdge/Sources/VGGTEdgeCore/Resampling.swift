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

    private init(windows: [Window], weights: [Int32], stride: Int) {
        self.windows = windows
        self.weights = weights
        self.stride = stride
    }

    /// The source samples that are read at all.
    var needed: Range<Int> {
        let first = windows.map(\.first).min() ?? 0
        return first..<max(first, windows.map { $0.first + $0.count }.max() ?? first)
    }

    /// The same for a source without the samples before `first`.
    func without(first: Int) -> ResamplingKernel {
        let windows = windows.map { Window(first: $0.first - first, count: $0.count) }
        return ResamplingKernel(windows: windows, weights: weights, stride: stride)
    }

    /// Some of the output samples alone.
    func only(_ kept: Range<Int>) -> ResamplingKernel {
        if kept == windows.indices { return self }
        let some = Array(weights[(kept.lowerBound * stride)..<(kept.upperBound * stride)])
        return ResamplingKernel(windows: Array(windows[kept]), weights: some, stride: stride)
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

/// Brings a picture to the model's input, in one bicubic, antialiased resampling.
struct Framer {
    /// The rows and columns of the source that the target depends on.
    let area: PixelArea
    private let across: ResamplingKernel?
    private let down: ResamplingKernel?
    private let isDownFirst: Bool
    private let framing: Framing

    /// - Throws: `KitError` for a target that is not made of whole patches, or larger than any model's input.
    init(from source: FrameSize, to target: FrameSize, by rule: Preprocess) throws {
        guard target.isMade(ofPatches: rule.patch), max(target.width, target.height) <= FrameSize.longestSide else {
            throw KitError(
                .wrongInput,
                "a model input of \(target) pixels is not made of whole patches, or too large",
                remedy: "use the size in kit.json; both sides are multiples of \(rule.patch)"
            )
        }
        framing = try Framing(from: source, to: target, by: rule)
        let (part, content, resampled) = (framing.part, framing.content, framing.resampled)
        let columns = (content.left - framing.offsetX)..<(content.right - framing.offsetX)
        let rows = (content.top - framing.offsetY)..<(content.bottom - framing.offsetY)
        let across = Self.kernel(source.width, part.left, part.right, resampled.width, columns)
        let down = Self.kernel(source.height, part.top, part.bottom, resampled.height, rows)
        area = PixelArea(
            rows: down?.needed ?? 0..<source.height,
            columns: across?.needed ?? 0..<source.width
        )
        self.across = across?.without(first: area.columns.lowerBound)
        self.down = down?.without(first: area.rows.lowerBound)
        // Each pass rounds to 8 bits, so their order shows. Pillow 13 begins with the columns where that drops more.
        let dropsRows = source.height - resampled.height
        isDownFirst = dropsRows > 0 && dropsRows > 2 * (source.width - resampled.width)
    }

    /// Nil where nothing has to be done along this axis.
    private static func kernel(
        _ source: Int, _ start: Double, _ end: Double, _ target: Int, _ kept: Range<Int>
    ) -> ResamplingKernel? {
        let (first, last) = (Float(start), Float(end))
        if source == target && first == 0 && last == Float(target) && kept == 0..<target { return nil }
        return ResamplingKernel(sourceLength: source, from: first, to: last, outputLength: target).only(kept)
    }

    /// What the target shows of a turned source. Where the rows come first they are read in bands, which stay in the
    /// processor's cache: the picture before the resampling is nowhere as a whole.
    func image(reading source: some PixelSource, turn: QuarterTurn) -> RGBImage {
        let shown = resampled(source, turn)
        return framing.isFilled ? shown : shown.placed(in: framing)
    }

    private func resampled(_ source: some PixelSource, _ turn: QuarterTurn) -> RGBImage {
        guard let across, !isDownFirst else {
            return applied(to: RGBImage(reading: source, turn: turn, area: area))
        }
        var narrow = [UInt8]()
        narrow.reserveCapacity(3 * across.windows.count * area.rows.count)
        for first in stride(from: area.rows.lowerBound, to: area.rows.upperBound, by: Self.bandRows) {
            let rows = first..<min(first + Self.bandRows, area.rows.upperBound)
            let band = RGBImage(reading: source, turn: turn, area: PixelArea(rows: rows, columns: area.columns))
            narrow += band.resampledAcross(across).pixels
        }
        let size = FrameSize(width: across.windows.count, height: area.rows.count)
        return RGBImage(uncheckedSize: size, pixels: narrow).resampledDown(down)
    }

    private static let bandRows = 32

    /// - Parameter part: The area of the source.
    private func applied(to part: RGBImage) -> RGBImage {
        if isDownFirst { return part.resampledDown(down).resampledAcross(across) }
        return part.resampledAcross(across).resampledDown(down)
    }
}

extension RGBImage {
    /// The picture scaled until it covers `target` and cropped evenly.
    ///
    /// Scale and crop are one bicubic, antialiased resampling, so that the crop may fall between pixels and
    /// `Intrinsics.resized(from:toCover:)` is exact. Give the model frames of about its own aspect ratio: what the crop
    /// takes away is not seen.
    /// - Throws: `KitError` for a target that is not made of whole patches, or larger than any model's input.
    public func resized(toCover target: FrameSize) throws -> RGBImage { try framed(to: target, by: .fit) }

    /// The picture as the model's input, by the rule of a kit; `Framing` says where its pixels went.
    ///
    /// - Parameters:
    ///   - target: The size of the model's input.
    ///   - rule: The kit's `preprocess`.
    /// - Throws: `KitError` for a target that is not made of whole patches, or larger than any model's input, and as
    ///   `Framing.init(from:to:by:)`.
    public func framed(to target: FrameSize, by rule: Preprocess) throws -> RGBImage {
        let framer = try Framer(from: size, to: target, by: rule)
        return pixels.withUnsafeBufferPointer { bytes in
            framer.image(reading: RGBPixels(bytes: bytes, size: size), turn: .upright)
        }
    }

    /// On white, where `framing` has its content.
    fileprivate func placed(in framing: Framing) -> RGBImage {
        var all = [UInt8](repeating: 255, count: 3 * framing.target.pixelCount)
        for row in 0..<size.height {
            let start = 3 * ((framing.content.top + row) * framing.target.width + framing.content.left)
            let line = pixels[(3 * row * size.width)..<(3 * (row + 1) * size.width)]
            all.replaceSubrange(start..<(start + line.count), with: line)
        }
        return RGBImage(uncheckedSize: framing.target, pixels: all)
    }

    /// Every row on its own.
    fileprivate func resampledAcross(_ kernel: ResamplingKernel?) -> RGBImage {
        guard let kernel else { return self }
        let output = FrameSize(width: kernel.windows.count, height: size.height)
        return Self.filled(output, from: self, kernel) { source, weights, result in
            for row in 0..<output.height {
                for (column, window) in kernel.windows.enumerated() {
                    var (red, green, blue) = (Self.half, Self.half, Self.half)
                    var pixel = source + 3 * (row * size.width + window.first)
                    let first = weights + column * kernel.stride
                    for index in 0..<window.count {
                        let weight = first[index]
                        red &+= Int32(pixel[0]) &* weight
                        green &+= Int32(pixel[1]) &* weight
                        blue &+= Int32(pixel[2]) &* weight
                        pixel += 3
                    }
                    let to = result + 3 * (row * output.width + column)
                    to[0] = Self.level(red)
                    to[1] = Self.level(green)
                    to[2] = Self.level(blue)
                }
            }
        }
    }

    /// Every column on its own, a row of sums at a time.
    fileprivate func resampledDown(_ kernel: ResamplingKernel?) -> RGBImage {
        guard let kernel else { return self }
        let output = FrameSize(width: size.width, height: kernel.windows.count)
        let length = 3 * size.width
        return withUnsafeTemporaryAllocation(of: Int32.self, capacity: length) { sums in
            Self.filled(output, from: self, kernel) { source, weights, result in
                for (row, window) in kernel.windows.enumerated() {
                    sums.initialize(repeating: Self.half)
                    for index in 0..<window.count {
                        let weight = weights[row * kernel.stride + index]
                        let pixels = source + length * (window.first + index)
                        for at in 0..<length { sums[at] &+= Int32(pixels[at]) &* weight }
                    }
                    let to = result + length * row
                    for at in 0..<length { to[at] = Self.level(sums[at]) }
                }
            }
        }
    }

    private static func filled(
        _ size: FrameSize,
        from image: RGBImage,
        _ kernel: ResamplingKernel,
        _ body: (UnsafePointer<UInt8>, UnsafePointer<Int32>, UnsafeMutablePointer<UInt8>) -> Void
    ) -> RGBImage {
        let pixels = [UInt8](unsafeUninitializedCapacity: 3 * size.pixelCount) { result, count in
            image.pixels.withUnsafeBufferPointer { source in
                kernel.weights.withUnsafeBufferPointer { weights in
                    guard let from = source.baseAddress, let by = weights.baseAddress, let to = result.baseAddress
                    else { return }
                    body(from, by, to)
                    count = 3 * size.pixelCount
                }
            }
        }
        return RGBImage(uncheckedSize: size, pixels: pixels)
    }

    /// One half in fixed point, so that cutting the fraction off rounds.
    private static let half: Int32 = 1 << (ResamplingKernel.precision - 1)

    @inline(__always)
    private static func level(_ sum: Int32) -> UInt8 { UInt8(clamping: sum >> ResamplingKernel.precision) }
}
