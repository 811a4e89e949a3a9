// The compute plan: two operations that have a device, and a constant that has none.
import Foundation
import StandIn

open class MLCPUComputeDevice: NSObject {}
open class MLGPUComputeDevice: NSObject {}
open class MLNeuralEngineComputeDevice: NSObject {}

public enum MLComputeDevice: Equatable, Hashable, @unchecked Sendable {
    case cpu(MLCPUComputeDevice)
    case gpu(MLGPUComputeDevice)
    case neuralEngine(MLNeuralEngineComputeDevice)
}

public class MLComputePlan {
    public struct DeviceUsage: Sendable {
        public let supported: [MLComputeDevice]
        public let preferred: MLComputeDevice
    }

    public struct Cost: Sendable {
        public let weight: Double
    }

    final public let modelStructure: MLModelStructure

    private init() {
        let names = ["frame_blocks_0__attn_qkv__linear", "depth_head__x__conv", "const_1"]
        let operations = names.map { name in
            MLModelStructure.Program.Operation(operatorName: "op", outputs: [.init(name: name)], blocks: [])
        }
        let block = MLModelStructure.Program.Block(outputNames: [], operations: operations)
        modelStructure = .program(.init(functions: ["main": .init(inputs: [], block: block)]))
    }

    public static func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLComputePlan {
        let number = StandIn.shared.count("plans")
        StandIn.shared.count("models beside a plan", StandIn.shared.figure("live MLModel"))
        try StandIn.shared.behaviour.plan?(number)
        return MLComputePlan()
    }

    public func estimatedCost(of operation: MLModelStructure.Program.Operation) -> Cost? { Cost(weight: 0.5) }

    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        guard operation.outputs.first?.name.hasPrefix("const") == false else { return nil }
        return DeviceUsage(supported: [], preferred: .cpu(MLCPUComputeDevice()))
    }
}

@available(*, unavailable)
extension MLComputePlan: @unchecked Sendable {}

public enum MLModelStructure: Sendable {
    public struct Program: Sendable {
        public struct NamedValueType: Sendable {
            public let name: String
        }

        public struct Function: Sendable {
            public let inputs: [NamedValueType]
            public let block: Block
        }

        public struct Block: Sendable {
            public let outputNames: [String]
            public let operations: [Operation]
        }

        public struct Operation: Sendable {
            public let operatorName: String
            public let outputs: [NamedValueType]
            public let blocks: [Block]
        }

        public let functions: [String: Function]
    }

    public struct NeuralNetwork: Sendable {}

    public struct Pipeline: Sendable {
        public let subModels: [MLModelStructure]
    }

    case neuralNetwork(NeuralNetwork)
    case program(Program)
    case pipeline(Pipeline)
    case unsupported
}
