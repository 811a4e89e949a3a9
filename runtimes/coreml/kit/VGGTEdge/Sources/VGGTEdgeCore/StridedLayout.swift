/// Where the elements of an array lie in memory. Core ML may leave gaps, such as rows padded for the Neural Engine.
public struct StridedLayout: Equatable, Sendable {
    /// The sides, the slowest first.
    public let shape: [Int]
    /// From one element to the next along each side, in elements.
    public let strides: [Int]
    /// The number of elements.
    public let count: Int
    /// Elements from the start of the memory to the end of the last element.
    public let extent: Int

    /// Core ML's arrays have at most five sides.
    private static let mostSides = 8
    /// 16 GB of float32: no output is larger.
    private static let mostElements = 1 << 32

    /// - Parameters:
    ///   - shape: The sides, the slowest first.
    ///   - strides: One for each side, in elements.
    /// - Throws: `KitError` unless there is one stride, not negative, for each side, and the sizes are sane.
    public init(shape: [Int], strides: [Int]) throws {
        guard shape.count == strides.count, shape.count <= Self.mostSides, (shape + strides).allSatisfy({ $0 >= 0 }),
            let count = Self.bounded(shape.reduce((1, false)) { Self.product($0, $1) }),
            let extent = Self.bounded(Self.extent(shape, strides))
        else {
            throw KitError(
                .unusableOutput,
                "an array of shape \(shape) with strides \(strides)",
                remedy: "report this with the version of the system"
            )
        }
        self.shape = shape
        self.strides = strides
        self.count = count
        self.extent = count == 0 ? 0 : extent
    }

    private static func bounded(_ value: (partial: Int, overflow: Bool)) -> Int? {
        value.overflow || value.partial > mostElements ? nil : value.partial
    }

    private static func product(_ value: (partial: Int, overflow: Bool), _ factor: Int) -> (Int, Bool) {
        let (product, overflow) = value.partial.multipliedReportingOverflow(by: factor)
        return (product, value.overflow || overflow)
    }

    private static func extent(_ shape: [Int], _ strides: [Int]) -> (Int, Bool) {
        zip(shape, strides).reduce((1, false)) { sum, side in
            let step = product((max(0, side.0 - 1), false), side.1)
            let (total, overflow) = sum.0.addingReportingOverflow(step.0)
            return (total, sum.1 || step.1 || overflow)
        }
    }

    /// Whether the elements lie in order and without gaps.
    public var isContiguous: Bool { contiguousSides == shape.count }

    /// How many of the last sides lie in order and without gaps.
    private var contiguousSides: Int {
        var expected = 1
        var sides = 0
        for (side, stride) in zip(shape, strides).reversed() {
            if side != 1 && stride != expected { return sides }
            expected *= side
            sides += 1
        }
        return sides
    }

    /// Fails where the last element lies beyond memory of that many elements, or elements share memory: a stride of 0
    /// would make a large array of a small one.
    package func checkFits(in elements: Int) throws {
        guard extent <= elements, count <= elements else {
            throw KitError(
                .unusableOutput,
                "an array of shape \(shape) and strides \(strides) in \(elements) elements of memory",
                remedy: "report this with the version of the system"
            )
        }
    }

    /// The elements in order, without the gaps.
    ///
    /// - Parameter storage: The memory from the first element to at least the last one.
    /// - Throws: `KitError` if the last element lies beyond the memory.
    public func gather<Element>(_ storage: UnsafeBufferPointer<Element>) throws -> [Element] {
        try checkFits(in: storage.count)
        guard count > 0 else { return [] }
        let outer = shape.count - contiguousSides
        let length = shape[outer...].reduce(1, *)
        return [Element](unsafeUninitializedCapacity: count) { result, initialized in
            var indices = [Int](repeating: 0, count: outer)
            for start in stride(from: 0, to: count, by: length) {
                let offset = zip(indices, strides).reduce(0) { $0 + $1.0 * $1.1 }
                let run = UnsafeBufferPointer(rebasing: storage[offset..<(offset + length)])
                _ = UnsafeMutableBufferPointer(rebasing: result[start..<(start + length)]).initialize(from: run)
                advance(&indices)
            }
            initialized = count
        }
    }

    /// To the next combination, the last side fastest.
    private func advance(_ indices: inout [Int]) {
        for side in indices.indices.reversed() {
            indices[side] += 1
            if indices[side] < shape[side] { return }
            indices[side] = 0
        }
    }
}
