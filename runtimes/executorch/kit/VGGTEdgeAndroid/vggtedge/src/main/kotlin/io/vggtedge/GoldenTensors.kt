package io.vggtedge

import java.io.File

/**
 * One input with what the quantized simulation and the FP32 model made of it, written by the exporter.
 *
 * @property images The frames, (1, S, 3, H, W) from 0 to 1.
 * @property simulation Outputs of the simulation of the same plan, by name: what the device is judged by.
 * @property fp32 Outputs of the FP32 model, by name: for information.
 */
public class GoldenTensors
private constructor(
    public val images: FloatTensor,
    public val simulation: Map<String, FloatTensor>,
    public val fp32: Map<String, FloatTensor>,
) {
    /** Reads golden tensors. */
    public companion object {
        /**
         * Reads the file that [kit] names in [folder].
         *
         * Throws [KitException] for a kit without golden tensors, a file that is damaged or not the listed one, or
         * tensors that are not the kit's.
         */
        public fun read(kit: Kit, folder: File): GoldenTensors {
            val golden =
                kit.golden
                    ?: throw KitException(
                        KitException.Kind.DAMAGED_FILE,
                        "this kit has no golden tensors",
                        "export with `vggt-edge export`, which writes them after the validation",
                    )
            val file = File(folder, golden.file)
            checkFile(file, golden.sha256)
            return of(SafetensorsFile.open(file), kit)
        }

        /** From tensors called `input/images`, `simulation/<output>` and `fp32/<output>`; throws as [read] does. */
        public fun of(file: SafetensorsFile, kit: Kit): GoldenTensors {
            val present = file.names.toSet()
            val (judging, informing) = listOf("simulation", "fp32").map { group ->
                kit.outputs
                    .filter { group == "simulation" || "$group/${it.name}" in present }
                    .associate { it.name to tensor(file, "$group/${it.name}", it.shape) }
            }
            return GoldenTensors(tensor(file, "input/images", kit.input.shape.toList()), judging, informing)
        }

        private fun tensor(file: SafetensorsFile, key: String, shape: List<Long>): FloatTensor {
            val tensor = file.tensor(key)
            if (tensor.shape == shape) return tensor
            throw KitException(
                KitException.Kind.DAMAGED_FILE,
                "the golden tensor $key has the shape ${tensor.shape}, the kit says $shape",
                "take kit.json and the golden tensors out of the same bundle",
            )
        }
    }
}
