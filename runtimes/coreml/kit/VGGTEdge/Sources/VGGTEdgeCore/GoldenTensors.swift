import Foundation

/// One input with what the quantized simulation and the FP32 model made of it, written by the exporter.
public struct GoldenTensors: Equatable, Sendable {
    /// The frames, (1, S, 3, H, W) from 0 to 1.
    public let images: Tensor
    /// Outputs of the simulation of the same plan, by name: what the device is judged by.
    public let simulation: [String: Tensor]
    /// Outputs of the FP32 model, by name: for information.
    public let fp32: [String: Tensor]

    /// Reads the file that `kit.json` names.
    ///
    /// - Parameters:
    ///   - kit: The kit.
    ///   - folder: The folder of `kit.json`.
    /// - Throws: `KitError` for a kit without golden tensors, a damaged file, or tensors that are not the kit's.
    public init(kit: Kit, folder: URL) throws {
        guard let golden = kit.golden else {
            throw KitError(
                .damagedFile,
                "this kit has no golden tensors",
                remedy: "export with `vggt-edge export`, which writes them after the validation"
            )
        }
        try self.init(file: SafetensorsFile(contentsOf: folder.appendingPathComponent(golden.file)), kit: kit)
    }

    /// - Parameters:
    ///   - file: Tensors called `input/images`, `simulation/<output>` and `fp32/<output>`.
    ///   - kit: The kit that they belong to.
    /// - Throws: `KitError` unless the shapes are those of the kit and each output has its simulation.
    public init(file: SafetensorsFile, kit: Kit) throws {
        images = try file.tensor("input/images")
        let (input, size) = (kit.input, kit.input.frameSize)
        try Self.check("input/images", images, shape: [1, input.frames, 3, size.height, size.width])
        var groups = [String: [String: Tensor]]()
        for output in kit.outputs {
            for group in ["simulation", "fp32"] {
                let key = "\(group)/\(output.name)"
                guard group == "simulation" || file.names.contains(key) else { continue }
                let tensor = try file.tensor(key)
                try Self.check(key, tensor, shape: output.shape)
                groups[group, default: [:]][output.name] = tensor
            }
        }
        simulation = groups["simulation"] ?? [:]
        fp32 = groups["fp32"] ?? [:]
    }

    private static func check(_ key: String, _ tensor: Tensor, shape: [Int]) throws {
        guard tensor.shape == shape else {
            throw KitError(
                .damagedFile,
                "the golden tensor \(key) has the shape \(tensor.shape), the kit says \(shape)",
                remedy: "take kit.json and the golden tensors out of the same bundle"
            )
        }
    }
}
