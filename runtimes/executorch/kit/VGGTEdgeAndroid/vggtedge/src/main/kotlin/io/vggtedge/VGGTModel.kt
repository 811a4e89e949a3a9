package io.vggtedge

import android.graphics.Bitmap
import android.media.Image
import android.os.Build
import java.io.Closeable
import java.io.File
import java.nio.FloatBuffer
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * VGGT on the device: a few frames of one place in, cameras, depth and points out.
 *
 * Can be shared between coroutines; predictions run one after another, on a background thread.
 *
 * ```kotlin
 * VGGTModel.load(folder).use { model ->
 *     val frames = bitmaps.map { model.prepare(it) }
 *     val cameras = model.predict(frames).cameras()
 * }
 * ```
 *
 * @property kit What `kit.json` says.
 * @property threads Threads that ExecuTorch was asked to use; 0: its own choice.
 */
public class VGGTModel
private constructor(public val kit: Kit, public val threads: Int, private val module: Module) : Closeable {
    private val lock = Any()
    private var isClosed = false
    private val dispatcher: CoroutineDispatcher = Dispatchers.Default.limitedParallelism(1)
    private val buffer: FloatBuffer = Tensor.allocateFloatBuffer(kit.input.shape.fold(1L, Long::times).toInt())

    /** The frames as the model sees them. */
    public val frameSize: FrameSize get() = kit.input.frameSize

    /** How many frames a prediction takes. */
    public val frameCount: Int get() = kit.input.frames

    /** Brings a picture to the model's size. Takes some ten milliseconds: not for the main thread. */
    public fun prepare(bitmap: Bitmap, turn: QuarterTurn = QuarterTurn.UPRIGHT): RgbImage =
        RgbImage.of(bitmap).turned(turn).resizedToCover(frameSize)

    /**
     * Copies a camera frame and brings it to the model's size. The image can be closed at once.
     *
     * [turn] makes it upright, see [QuarterTurn.ofDegrees]. Takes some ten milliseconds: not for the main thread.
     */
    public fun prepare(image: Image, turn: QuarterTurn = QuarterTurn.UPRIGHT): RgbImage =
        RgbImage.of(image).turned(turn).resizedToCover(frameSize)

    /**
     * Predicts from [frameCount] prepared frames; the first one's camera becomes the world.
     *
     * Throws [KitException] for other frames, or if the prediction fails.
     */
    public suspend fun predict(frames: List<RgbImage>): Prediction {
        if (frames.size != frameCount || frames.any { it.size != frameSize }) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "${frames.size} frames of ${frames.map { it.size.toString() }.distinct()} pixels",
                "give $frameCount frames of $frameSize pixels, made by prepare",
            )
        }
        return run { buffer -> frames.forEach { buffer.put(it.planes()) } }
    }

    /**
     * Predicts from values (frames, 3, height, width) in row-major order, RGB from 0 to 1.
     *
     * Throws [KitException] for another number of values, or if the prediction fails.
     */
    public suspend fun predict(images: FloatArray): Prediction {
        if (images.size != buffer.capacity()) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "${images.size} values instead of ${buffer.capacity()}",
                "give $frameCount x 3 x ${frameSize.height} x ${frameSize.width} values",
            )
        }
        return run { buffer -> buffer.put(images) }
    }

    /** Runs once on grey frames. The first prediction of a loaded model is slower than the others. */
    public suspend fun warmUp() {
        predict(FloatArray(buffer.capacity()) { 0.5f })
    }

    /** Gives the model's memory back, after a prediction that still runs. */
    override fun close() {
        synchronized(lock) {
            if (!isClosed) module.destroy()
            isClosed = true
        }
    }

    private suspend fun run(fill: (FloatBuffer) -> Unit): Prediction =
        withContext(dispatcher) {
            synchronized(lock) {
                if (isClosed) {
                    throw KitException(KitException.Kind.WRONG_INPUT, "this model is closed", "load it again")
                }
                buffer.rewind()
                fill(buffer)
                buffer.rewind()
                Prediction(forward(), frameCount, frameSize)
            }
        }

    private fun forward(): Map<String, FloatTensor> =
        executing("run") {
            val results = module.forward(EValue.from(Tensor.fromBlob(buffer, kit.input.shape)))
            if (results.size != kit.outputs.size) throw unexpected("${results.size} outputs")
            kit.outputs.zip(results).associate { (output, value) -> output.name to read(output, value) }
        }

    private fun read(output: Kit.Output, value: EValue): FloatTensor {
        val tensor = value.toTensor()
        val shape = tensor.shape().toList()
        if (shape != output.shape) throw unexpected("the output ${output.name} with the shape $shape")
        return FloatTensor(shape, tensor.dataAsFloatArray)
    }

    private fun unexpected(what: String): KitException =
        KitException(
            KitException.Kind.MODEL_FAILED,
            "the model gave $what, kit.json says otherwise",
            "take kit.json and the program out of the same bundle",
        )

    /** Loads models. */
    public companion object {
        private val ABIS = setOf("arm64-v8a", "x86_64")

        /**
         * Checks the files and loads the model. Reads all of it, so call it before the model is needed.
         *
         * [folder] holds `kit.json` and the program; assets have to be copied out of the APK first. [threads]: 0 for
         * ExecuTorch's own choice, half of the processor's cores. The number holds for the whole process. Throws
         * [KitException] with what to do next.
         */
        public suspend fun load(folder: File, threads: Int = 0): VGGTModel =
            withContext(Dispatchers.IO) {
                val kit = Kit.read(folder)
                checkSupport(kit)
                kit.checkModel(folder)
                val path = File(folder, kit.model.program).absolutePath
                val module = executing("load") { Module.load(path, Module.LOAD_MODE_MMAP, threads) }
                VGGTModel(kit, threads, module)
            }

        private fun checkSupport(kit: Kit) {
            if (Build.SUPPORTED_ABIS.none { it in ABIS }) {
                throw KitException(
                    KitException.Kind.UNSUPPORTED,
                    "ExecuTorch has no library for ${Build.SUPPORTED_ABIS.joinToString()}",
                    "take a device with a 64-bit processor and a 64-bit system",
                )
            }
            if (kit.model.weights != null) {
                throw KitException(
                    KitException.Kind.UNSUPPORTED,
                    "Module of ExecuTorch 1.4 for Android takes no weights beside the program, such as " +
                        kit.model.weights,
                    "export with the weights inside the program, or load both with the C++ Module",
                )
            }
        }

        // Whatever native code and its wrapper throw, an app can do no more than show it.
        @Suppress("TooGenericExceptionCaught")
        private fun <T> executing(what: String, action: () -> T): T =
            try {
                action()
            } catch (error: RuntimeException) {
                throw failed(what, error)
            } catch (error: UnsatisfiedLinkError) {
                throw failed(what, error)
            }

        private fun failed(what: String, error: Throwable): KitException =
            KitException(
                KitException.Kind.MODEL_FAILED,
                "ExecuTorch cannot $what the model: ${error.message}",
                "free memory, or see the README for what a code of ExecuTorch means",
                error,
            )
    }
}
