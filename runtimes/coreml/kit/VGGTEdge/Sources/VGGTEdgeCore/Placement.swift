/// Where Core ML means to run the operations of the model, from its compute plan.
public struct Placement: Encodable, Equatable, Sendable {
    /// Operations per device: `neural_engine`, `gpu`, `cpu`.
    public let operations: [String: Int]
    /// Share of the estimated cost per device, from 0 to 1.
    public let cost: [String: Double]
    /// Operations per device for each block.
    public let blocks: [String: [String: Int]]

    enum CodingKeys: String, CodingKey {
        case operations
        case cost
        case blocks
    }

    /// Counts operations.
    ///
    /// - Parameters:
    ///   - operations: Output name, device and estimated cost of each operation that has a device. A cost that is not
    ///     finite or negative counts as 0.
    ///   - kit: The kit whose blocks they belong to.
    public init(operations: [(name: String, device: String, cost: Double)], kit: Kit) {
        let prefixes = kit.blocks.map { (block: $0.block, prefix: $0.operationPrefix) }
        var counts = [String: Int]()
        var costs = [String: Double]()
        var blocks = [String: [String: Int]]()
        for operation in operations {
            counts[operation.device, default: 0] += 1
            costs[operation.device, default: 0] += operation.cost.isFinite ? max(0, operation.cost) : 0
            guard let owner = prefixes.first(where: { operation.name.hasPrefix($0.prefix) }) else { continue }
            blocks[owner.block, default: [:]][operation.device, default: 0] += 1
        }
        let total = costs.values.reduce(0, +)
        self.operations = counts
        cost = total > 0 && total.isFinite ? costs.mapValues { $0 / total } : [:]
        self.blocks = blocks
    }
}
