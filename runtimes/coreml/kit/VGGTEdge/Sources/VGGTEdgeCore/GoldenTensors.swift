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
    /// - Throws: `KitError` unless the shapes are those of the kit, each output has its simulation, and all is finite.
    public init(file: SafetensorsFile, kit: Kit) throws {
        let (input, size) = (kit.input, kit.input.frameSize)
        images = try Self.tensor("input/images", of: file, shape: [1, input.frames, 3, size.height, size.width])
        var groups = [String: [String: Tensor]]()
        for output in kit.outputs {
            for group in ["simulation", "fp32"] {
                let key = "\(group)/\(output.name)"
                guard group == "simulation" || file.shape(of: key) != nil else { continue }
                groups[group, default: [:]][output.name] = try Self.tensor(key, of: file, shape: output.shape)
            }
        }
        simulation = groups["simulation"] ?? [:]
        fp32 = groups["fp32"] ?? [:]
    }

    /// A tensor of the kit's shape and of finite values. Nothing is copied before the shape is known to be right.
    private static func tensor(_ key: String, of file: SafetensorsFile, shape: [Int]) throws -> Tensor {
        if let found = file.shape(of: key), found != shape {
            throw damaged("the golden tensor \(key) has the shape \(found), the kit says \(shape)")
        }
        let tensor = try file.tensor(key)
        guard tensor.values.allSatisfy(\.isFinite) else {
            throw damaged("the golden tensor \(key) holds NaN or infinity")
        }
        return tensor
    }

    private static func damaged(_ reason: String) -> KitError {
        KitError(.damagedFile, reason, remedy: "take kit.json and the golden tensors out of the same bundle")
    }
}
