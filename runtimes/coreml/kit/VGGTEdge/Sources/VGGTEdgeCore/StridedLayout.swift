/// Where the elements of an array lie in memory. Core ML may leave gaps, such as rows padded for the Neural Engine.
public struct StridedLayout: Equatable, Sendable {
    /// The sides, the slowest first.
    public let shape: [Int]
    /// From one element to the next along each side, in elements.
    public let strides: [Int]

    /// - Parameters:
    ///   - shape: The sides, the slowest first.
    ///   - strides: One for each side, in elements.
    /// - Throws: `KitError` unless there is one stride, not negative, for each side.
    public init(shape: [Int], strides: [Int]) throws {
        guard shape.count == strides.count, (shape + strides).allSatisfy({ $0 >= 0 }) else {
            throw KitError(
                .unusableOutput,
                "an array of shape \(shape) with strides \(strides)",
                remedy: "report this with the version of the system"
            )
        }
        self.shape = shape
        self.strides = strides
    }

    /// The number of elements.
    public var count: Int { shape.reduce(1, *) }

    /// Whether the elements lie in order and without gaps.
    public var isContiguous: Bool {
        var expected = 1
        for (side, stride) in zip(shape, strides).reversed() {
            if side != 1 && stride != expected { return false }
            expected *= side
        }
        return true
    }

    /// The elements in order, without the gaps.
    ///
    /// - Parameter storage: The memory from the first element to at least the last one.
    /// - Throws: `KitError` if the last element lies beyond the memory.
    public func gather<Element>(_ storage: UnsafeBufferPointer<Element>) throws -> [Element] {
        let total = count
        guard total > 0 else { return [] }
        let last = zip(shape, strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }
        guard last < storage.count else {
            throw KitError(
                .unusableOutput,
                "an array of shape \(shape) and strides \(strides) in \(storage.count) elements of memory",
                remedy: "report this with the version of the system"
            )
        }
        if isContiguous { return Array(storage[..<total]) }
        var result = [Element]()
        result.reserveCapacity(total)
        append(to: &result, storage, side: 0, offset: 0)
        return result
    }

    private func append<Element>(
        to result: inout [Element],
        _ storage: UnsafeBufferPointer<Element>,
        side: Int,
        offset: Int
    ) {
        guard side < shape.count else {
            result.append(storage[offset])
            return
        }
        for index in 0..<shape[side] {
            append(to: &result, storage, side: side + 1, offset: offset + index * strides[side])
        }
    }
}
