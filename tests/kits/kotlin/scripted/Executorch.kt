package org.pytorch.executorch

import java.io.Closeable
import java.io.File
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.locks.ReentrantLock

// The part of executorch-android 1.4 that the kit uses: names, arguments and errors of the real one, no native code.

/** One opened program. The scripted one is below; `real/` has one that asks the runtime of PyPI's wheel. */
public interface Program {
    /** The runtime's code, 0 for success. */
    public fun loadMethod(): Int

    public fun forward(shape: LongArray, values: FloatBuffer): Array<EValue>

    public fun free()
}

/** What the stand-in does. A test sets it before it loads a model. */
public object Script {
    /** One prediction: shape and values of the input in, the outputs back. */
    @Volatile public var forward: (LongArray, FloatBuffer) -> Array<EValue> = { _, _ -> emptyArray() }

    /** Runs when the method is loaded; gives the code of the runtime. */
    @Volatile public var onLoadMethod: () -> Int = { 0 }

    /** Opens a program; may throw what a device throws. */
    @Volatile public var open: (path: String, threads: Int) -> Program = { _, _ -> Scripted() }

    public val opened: AtomicInteger = AtomicInteger()
    public val destroyed: AtomicInteger = AtomicInteger()

    public fun reset() {
        forward = { _, _ -> emptyArray() }
        onLoadMethod = { 0 }
        open = { _, _ -> Scripted() }
        opened.set(0)
        destroyed.set(0)
    }
}

public class Scripted : Program {
    override fun loadMethod(): Int = Script.onLoadMethod()

    override fun forward(shape: LongArray, values: FloatBuffer): Array<EValue> = Script.forward(shape, values)

    override fun free(): Unit = Unit
}

public enum class DType(public val jniCode: Int) { INT64(4), HALF(5), FLOAT(6) }

public open class ExecutorchRuntimeException(public val errorCode: Int, details: String?) :
    RuntimeException("[ExecuTorch Error 0x${Integer.toHexString(errorCode)}] $details")

public abstract class Tensor internal constructor(private val sides: LongArray) {
    public fun shape(): LongArray = sides.copyOf()

    public fun numel(): Long = sides.fold(1L, Long::times)

    public abstract fun dtype(): DType

    public open val dataAsFloatArray: FloatArray
        get() = throw IllegalStateException("Tensor of type ${javaClass.simpleName} cannot return data as float array.")

    public open fun getRawDataBuffer(): Buffer =
        throw IllegalStateException("Tensor of type ${javaClass.simpleName} cannot return raw data buffer.")

    internal class Floats(private val data: FloatBuffer, sides: LongArray) : Tensor(sides) {
        override fun dtype() = DType.FLOAT

        override fun getRawDataBuffer(): Buffer = data

        override val dataAsFloatArray: FloatArray
            get() {
                data.rewind()
                return FloatArray(data.remaining()).also { data.get(it) }
            }
    }

    /** Half precision, which the real class turns into floats when it is asked for them. */
    private class Halves(private val data: FloatArray, sides: LongArray) : Tensor(sides) {
        override fun dtype() = DType.HALF

        override val dataAsFloatArray: FloatArray get() = data.copyOf()
    }

    public companion object {
        @JvmStatic
        public fun allocateFloatBuffer(numElements: Int): FloatBuffer =
            ByteBuffer.allocateDirect(numElements * Float.SIZE_BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer()

        @JvmStatic
        public fun fromBlob(data: FloatBuffer, shape: LongArray): Tensor {
            require(data.isDirect) { "Data buffer must be direct (java.nio.ByteBuffer#allocateDirect(int))" }
            require(data.order() == ByteOrder.nativeOrder()) { "Data buffer must have native byte order" }
            return Floats(data, checked(shape, data.capacity()))
        }

        @JvmStatic
        public fun fromBlob(data: FloatArray, shape: LongArray): Tensor =
            Floats(allocateFloatBuffer(data.size).apply { put(data) }, checked(shape, data.size))

        /** Only here: an output in half precision. */
        public fun ofHalves(data: FloatArray, shape: LongArray): Tensor = Halves(data, checked(shape, data.size))

        private fun checked(shape: LongArray, capacity: Int): LongArray {
            require(shape.fold(1L, Long::times) == capacity.toLong()) { "Inconsistent data capacity: $capacity" }
            return shape.copyOf()
        }
    }
}

public class EValue private constructor(private val data: Any?) {
    public fun toTensor(): Tensor = data as? Tensor ?: throw IllegalStateException("Expected EValue type Tensor")

    public companion object {
        @JvmStatic public fun optionalNone(): EValue = EValue(null)

        @JvmStatic public fun from(tensor: Tensor): EValue = EValue(tensor)
    }
}

public open class Module private constructor(private val program: Program) : Closeable {
    private val lock = ReentrantLock()
    private var alive = true

    public open fun forward(vararg inputs: EValue): Array<EValue> = locked {
        val tensor = inputs.single().toTensor()
        program.forward(tensor.shape(), (tensor.getRawDataBuffer() as FloatBuffer).duplicate().also { it.rewind() })
    }

    public open fun loadMethod(methodName: String): Unit = locked {
        val code = program.loadMethod()
        if (code != 0) throw ExecutorchRuntimeException(code, "Failed to load method: $methodName")
    }

    public open fun destroy() {
        if (!lock.tryLock()) throw IllegalStateException("Cannot destroy module while method is executing")
        try {
            if (alive) {
                program.free()
                Script.destroyed.incrementAndGet()
            }
            alive = false
        } finally {
            lock.unlock()
        }
    }

    override fun close(): Unit = destroy()

    private fun <T> locked(action: () -> T): T {
        lock.lock()
        try {
            check(alive) { "Module has been destroyed" }
            return action()
        } finally {
            lock.unlock()
        }
    }

    public companion object {
        public const val LOAD_MODE_FILE: Int = 0
        public const val LOAD_MODE_MMAP: Int = 1

        @JvmStatic
        @JvmOverloads
        public fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            requireNotNull(modelPath) { "Cannot load model path: path is null" }
            require(File(modelPath).isFile) { "Cannot load model path: path does not exist: $modelPath" }
            check(loadMode in LOAD_MODE_FILE..LOAD_MODE_MMAP) { "Cannot load with the mode $loadMode" }
            val program = Script.open(modelPath, numThreads)
            Script.opened.incrementAndGet()
            return Module(program)
        }
    }
}
