package io.vggtedge

import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.security.MessageDigest
import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** An opened program with its input. Used by one thread at a time. */
internal class ModelProgram(private val kit: Kit, private val module: Module, private val input: FloatBuffer) {
    /** One prediction; [fill] writes the input. The outputs are valid until the next one. */
    fun run(fill: (FloatBuffer) -> Unit): ProgramOutputs =
        executing("run") {
            input.rewind()
            fill(input)
            input.rewind()
            val results = module.forward(EValue.from(Tensor.fromBlob(input, kit.input.shape)))
            if (results.size != kit.outputs.size) throw unexpected("${results.size} outputs")
            val pairs = kit.outputs.zip(results)
            ProgramOutputs(pairs.associate { (output, value) -> output.name to checked(output, value) })
        }

    /** Gives the memory of the program back. */
    fun free() {
        module.destroy()
    }

    private fun checked(output: Kit.Output, value: EValue): Tensor {
        val tensor = value.toTensor()
        val shape = tensor.shape().toList()
        if (shape != output.shape) throw unexpected("the output ${output.name} with the shape $shape")
        if (tensor.dtype() != DType.FLOAT) throw unexpected("the output ${output.name} as ${tensor.dtype()}")
        return tensor
    }

    private fun unexpected(what: String): KitException =
        KitException(
            KitException.Kind.MODEL_FAILED,
            "the model gave $what, kit.json says otherwise",
            "take kit.json and the program out of the same bundle",
        )
}

/** What a prediction gave, in memory of the program: nothing is copied before it is asked for. */
internal class ProgramOutputs(private val tensors: Map<String, Tensor>) {
    fun values(name: String): FloatArray = executing("read") { tensors.getValue(name).dataAsFloatArray }

    /** Copies all. */
    fun copied(): Map<String, FloatTensor> =
        tensors.mapValues { (name, tensor) -> FloatTensor(tensor.shape().toList(), values(name)) }

    /** The sha256 of all values. */
    fun digest(): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val part = FloatArray(PART)
        val bytes = ByteBuffer.allocate(PART * Float.SIZE_BYTES)
        for (tensor in tensors.values) {
            val values = (tensor.getRawDataBuffer() as FloatBuffer).duplicate().also { it.rewind() }
            while (values.hasRemaining()) {
                val count = minOf(PART, values.remaining())
                values.get(part, 0, count)
                bytes.asFloatBuffer().put(part, 0, count)
                digest.update(bytes.array(), 0, count * Float.SIZE_BYTES)
            }
        }
        return hex(digest.digest())
    }

    private companion object {
        const val PART = 1 shl 14
    }
}
