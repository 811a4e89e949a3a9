#if canImport(CoreML)
    import CoreML
    import Foundation
    import VGGTEdgeCore

    extension Placement {
        /// Where Core ML means to run each operation of a model on this device; nil where the system cannot tell.
        ///
        /// Core ML leaves the Neural Engine without a word where it finds an operation it cannot run there. It shows
        /// here.
        /// - Throws: `KitError` if Core ML refuses to plan.
        public static func planned(of model: VGGTModel) async throws -> Placement? {
            try await planned(model.kit, compiled: model.compiledModel, configuration: model.configuration)
        }

        static func planned(
            _ kit: Kit, compiled: URL, configuration: sending MLModelConfiguration
        ) async throws -> Placement? {
            guard #available(iOS 17.4, macOS 14.4, visionOS 1.1, *) else { return nil }
            let plan: MLComputePlan
            do {
                plan = try await MLComputePlan.load(contentsOf: compiled, configuration: configuration)
            } catch {
                throw KitError(
                    .modelFailed,
                    "Core ML gives no compute plan: \(error.localizedDescription)",
                    remedy: "load the model first; its errors say more",
                    underlying: error
                )
            }
            guard case .program(let program) = plan.modelStructure else { return nil }
            let operations = program.functions.values.flatMap { $0.block.operations }
            return Placement(operations: operations.compactMap { described($0, in: plan) }, kit: kit)
        }

        /// Constants have no device, and are left out.
        @available(iOS 17.4, macOS 14.4, visionOS 1.1, *)
        private static func described(
            _ operation: MLModelStructure.Program.Operation, in plan: MLComputePlan
        ) -> (name: String, device: String, cost: Double)? {
            guard let usage = plan.deviceUsage(for: operation) else { return nil }
            let name = operation.outputs.first?.name ?? ""
            return (name, deviceName(usage.preferred), plan.estimatedCost(of: operation)?.weight ?? 0)
        }

        @available(iOS 17.4, macOS 14.4, visionOS 1.1, *)
        private static func deviceName(_ device: MLComputeDevice) -> String {
            switch device {
            case .neuralEngine: return "neural_engine"
            case .gpu: return "gpu"
            case .cpu: return "cpu"
            @unknown default: return "unknown"
            }
        }
    }
#endif
