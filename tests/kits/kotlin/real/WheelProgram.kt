package org.pytorch.executorch

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** A program on the runtime inside PyPI's wheel, in the place of the scripted one. */
public class WheelProgram(path: String, threads: Int) : Program {
    private val handle: Long = open(path, threads)

    override fun loadMethod(): Int = prepare(handle)

    override fun forward(shape: LongArray, values: FloatBuffer): Array<EValue> {
        val parts = run(handle, values, shape)
        return Array(parts.size / 2) { index ->
            val data = (parts[2 * index + 1] as ByteBuffer).order(ByteOrder.nativeOrder()).asFloatBuffer()
            EValue.from(Tensor.fromBlob(data, parts[2 * index] as LongArray))
        }
    }

    override fun free(): Unit = release(handle)

    public companion object {
        init {
            System.loadLibrary("wheel_program")
        }

        @JvmStatic private external fun open(path: String, threads: Int): Long

        @JvmStatic private external fun prepare(handle: Long): Int

        @JvmStatic private external fun run(handle: Long, values: FloatBuffer, shape: LongArray): Array<Any>

        @JvmStatic private external fun release(handle: Long)
    }
}
