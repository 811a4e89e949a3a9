package io.vggtedge

import java.io.File

/**
 * One input with what the quantized simulation and the FP32 model made of it, written by the exporter.
 *
 * The file is mapped; each call copies one tensor out of it.
 */
public class GoldenTensors private constructor(private val file: SafetensorsFile, private val kit: Kit) {
    /** The frames, (1, S, 3, H, W) from 0 to 1. */
    public fun images(): FloatTensor = finite("input/images")

    /**
     * What the simulation of the same plan gives for the output [name]: what the device is judged by.
     *
     * Throws [KitException] for an output that the kit does not have.
     */
    public fun simulation(name: String): FloatTensor = finite("simulation/$name")

    /** What the FP32 model gives for the output [name], for information; null where the kit has no such tensor. */
    public fun fp32(name: String): FloatTensor? =
        if (file.shapeOf("fp32/$name") == null) null else finite("fp32/$name")

    private fun finite(key: String): FloatTensor {
        if (file.shapeOf(key) == null) throw damaged("there is no golden tensor $key")
        val tensor = file.tensor(key)
        if (tensor.values.all { it.isFinite() }) return tensor
        throw damaged("the golden tensor $key holds NaN or infinity")
    }

    private fun checkShapes() {
        checkShape("input/images", kit.input.shape.toList())
        for (output in kit.outputs) {
            checkShape("simulation/${output.name}", output.shape)
            if (file.shapeOf("fp32/${output.name}") != null) checkShape("fp32/${output.name}", output.shape)
        }
    }

    private fun checkShape(key: String, shape: List<Long>) {
        val found = file.shapeOf(key) ?: throw damaged("there is no golden tensor $key")
        if (found != shape) throw damaged("the golden tensor $key has the shape $found, the kit says $shape")
    }

    private fun damaged(what: String) =
        KitException(
            KitException.Kind.DAMAGED_FILE,
            "${kit.golden?.file ?: "the golden file"}: $what",
            "take kit.json and the golden tensors out of the same bundle",
        )

    /** Reads golden tensors. */
    public companion object {
        /**
         * Reads the file that [kit] names in [folder].
         *
         * Throws [KitException] for a kit without golden tensors, a file that is damaged or not the listed one, or
         * tensors that are not the kit's.
         */
        @JvmStatic
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
        @JvmStatic
        public fun of(file: SafetensorsFile, kit: Kit): GoldenTensors =
            GoldenTensors(file, kit).also { it.checkShapes() }
    }
}
