package io.vggtedge

import android.graphics.Bitmap
import android.graphics.Rect
import android.media.Image
import androidx.annotation.IntRange
import androidx.annotation.WorkerThread
import java.io.Closeable
import java.io.File
import java.nio.FloatBuffer
import java.util.concurrent.CompletableFuture
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.future.future

/** Is told how much of a model has been loaded. */
public fun interface LoadProgress {
    /** [share] goes from 0 to 1. Called on a thread of the kit's own. */
    public fun onProgress(share: Double)
}

/**
 * VGGT on the device: a few frames of one place in, cameras, depth and points out.
 *
 * Can be shared between coroutines. Predictions run one after another on a thread of the model's own; inputs are taken
 * when the call is made. A caller that is cancelled goes at once.
 *
 * ```kotlin
 * VGGTModel.load(folder).use { model ->
 *     val frames = bitmaps.map { model.prepare(it) }
 *     val cameras = model.predict(frames).cameras()
 * }
 * ```
 *
 * @property kit What `kit.json` says.
 * @property threads Threads that ExecuTorch uses.
 */
public class VGGTModel
internal constructor(public val kit: Kit, public val threads: Int, program: ModelProgram) : Closeable {
    private val worker =
        ModelWorker(program) {
            try {
                program.free()
            } finally {
                RuntimeThreads.giveBack()
            }
        }

    /** The frames as the model sees them. */
    public val frameSize: FrameSize get() = kit.input.frameSize

    /** How many frames a prediction takes. */
    public val frameCount: Int get() = kit.input.frames

    /** Whether a prediction runs or waits: a good time to drop a camera frame. */
    public val isBusy: Boolean get() = worker.isBusy

    /**
     * Where the pixels of an upright picture of [size] land in the model's input, by the rule that the model was
     * exported with: which part is white, how intrinsics change, and the way back to the picture.
     */
    public fun framing(size: FrameSize): Framing = Framing(size, frameSize, kit.preprocess)

    /**
     * Brings a picture to the model's size by the kit's `preprocess`, in sRGB and on white.
     *
     * Takes as long as a prediction of a small model, or more in an interpreter: not for the main thread.
     */
    @WorkerThread
    @JvmOverloads
    public fun prepare(bitmap: Bitmap, turn: QuarterTurn = QuarterTurn.UPRIGHT): RgbImage =
        BitmapRows(bitmap).framed(frameSize, turn.orientation, kit.preprocess)

    /** The same for a picture in a [file], which is turned as its EXIF orientation says. */
    @WorkerThread
    public fun prepare(file: File): RgbImage {
        val (bitmap, orientation) = decoded(file)
        return BitmapRows(bitmap).framed(frameSize, orientation, kit.preprocess)
    }

    /**
     * Copies a camera frame and brings it to the model's size. The image can be closed at once.
     *
     * [turn] makes it upright, see [QuarterTurn.ofDegrees]. [crop]: the part to use; the image's own where null.
     * [encoding]: how its colours are meant; where null what the image says, see [YCbCrEncoding]. Throws
     * [KitException] for other formats and encodings. Not for the main thread.
     */
    @WorkerThread
    @JvmOverloads
    public fun prepare(
        image: Image,
        turn: QuarterTurn = QuarterTurn.UPRIGHT,
        crop: Rect? = null,
        encoding: YCbCrEncoding? = null,
    ): RgbImage = imageRows(image, crop, encoding).framed(frameSize, turn.orientation, kit.preprocess)

    /**
     * Predicts from [frameCount] prepared frames; the first one's camera becomes the world. Waits for its turn.
     *
     * Throws [KitException] for other frames, a closed model, or if the prediction fails.
     */
    public suspend fun predict(frames: List<RgbImage>): Prediction = worker.run(predicting(frames))

    /**
     * Predicts from values (frames, 3, height, width) in row-major order, RGB from 0 to 1. Waits for its turn.
     *
     * Throws [KitException] for another number of values, values outside of 0 to 1, a closed model, or if the
     * prediction fails.
     */
    public suspend fun predict(images: FloatArray): Prediction {
        val values = images.copyOf()
        checkValues(values)
        return worker.run { program -> prediction(program.run { it.put(values) }) }
    }

    /**
     * As [predict], for a camera that is faster than the model: the latest frames win.
     *
     * One call at most waits. A newer one takes its place, and the one that waited returns null.
     */
    public suspend fun predictLatest(frames: List<RgbImage>): Prediction? = worker.runLatest(predicting(frames))

    /** [predict] for Java. Cancelling the future is cancelling the call. */
    public fun predictAsync(frames: List<RgbImage>): CompletableFuture<Prediction> {
        val taken = frames.toList()
        return future { predict(taken) }
    }

    /** [predict] of values for Java. */
    public fun predictAsync(images: FloatArray): CompletableFuture<Prediction> {
        val taken = images.copyOf()
        return future { predict(taken) }
    }

    /** [predictLatest] for Java: null where a newer call took this one's place. */
    public fun predictLatestAsync(frames: List<RgbImage>): CompletableFuture<Prediction?> {
        val taken = frames.toList()
        return future { predictLatest(taken) }
    }

    /** Runs once on grey frames. */
    public suspend fun warmUp() {
        predict(FloatArray(kit.input.frames * RgbImage.CHANNELS * frameSize.pixelCount) { 0.5f })
    }

    /** [warmUp] for Java. */
    public fun warmUpAsync(): CompletableFuture<Unit> = future { warmUp() }

    /**
     * Returns at once. Predictions that wait fail; one that runs ends first, then the model's memory is given back.
     *
     * Safe to call twice, and from any thread.
     */
    override fun close() {
        worker.close()
    }

    /** As [close], and returns when the memory is given back. */
    public suspend fun closeAndJoin() {
        worker.close()
        worker.awaitFreed()
    }

    /** [closeAndJoin] for Java. */
    public fun closeAndJoinAsync(): CompletableFuture<Unit> = future { closeAndJoin() }

    /** For checks: one prediction from values that were looked at before. */
    internal suspend fun <T> run(action: (ModelProgram) -> T): T = worker.run(action)

    private fun predicting(frames: List<RgbImage>): (ModelProgram) -> Prediction {
        val taken = frames.toList()
        if (taken.size != frameCount || taken.any { it.size != frameSize }) {
            throw wrongInput(
                "${taken.size} frames of ${taken.map { it.size.toString() }.distinct()} pixels",
                "give $frameCount frames of $frameSize pixels, made by prepare",
            )
        }
        return { program -> prediction(program.run { input: FloatBuffer -> taken.forEach { it.putPlanes(input) } }) }
    }

    private fun checkValues(values: FloatArray) {
        val count = kit.input.frames * RgbImage.CHANNELS * frameSize.pixelCount
        if (values.size != count) {
            throw wrongInput(
                "${values.size} values instead of $count",
                "give $frameCount x 3 x ${frameSize.height} x ${frameSize.width} values",
            )
        }
        if (!values.all { it in 0f..1f }) throw wrongInput("a value that is not from 0 to 1", "divide levels by 255")
    }

    private fun prediction(outputs: ProgramOutputs): Prediction {
        val copied = executing("read") { outputs.copied() }
        for ((name, tensor) in copied) checkOutput(name, tensor.values)
        return Prediction(copied, frameCount, frameSize, kit.pixelCenters)
    }

    /** Loads models. */
    public companion object {
        /**
         * Checks the files, opens the program and packs its weights. Reads all of it, so call it before the model is
         * needed. One model is loaded at a time; other calls wait. A cancelled call leaves nothing behind.
         *
         * [folder] holds `kit.json` and the program; assets have to be copied out of the APK first. [threads]: 1 to
         * the number of cores, or 0 for half of them; all models that are open at a time have to use one number, since
         * ExecuTorch has one pool of threads in a process. Throws [KitException] with what to do next.
         */
        @JvmStatic
        public suspend fun load(
            folder: File,
            @IntRange(from = 0) threads: Int = 0,
            progress: LoadProgress? = null,
        ): VGGTModel = ModelLoader.load(folder, threads, progress)

        /** [load] for Java. Cancelling the future is cancelling the call. */
        @JvmStatic
        @JvmOverloads
        public fun loadAsync(
            folder: File,
            @IntRange(from = 0) threads: Int = 0,
            progress: LoadProgress? = null,
        ): CompletableFuture<VGGTModel> = future { load(folder, threads, progress) }
    }
}

/** Runs [call] on the kit's threads alone. */
internal fun <T> future(call: suspend () -> T): CompletableFuture<T> =
    CoroutineScope(Dispatchers.Unconfined).future { call() }

/** Throws [KitException] for values that the output [name] cannot have. */
internal fun checkOutput(name: String, values: FloatArray) {
    val least = when (name) {
        "depth", "sky" -> 0f
        "depth_conf", "points_conf", "ray_conf" -> 1f
        else -> Float.NEGATIVE_INFINITY
    }
    if (values.all { it.isFinite() && it >= least }) return
    val what = if (values.all { it.isFinite() }) "values below $least, which it cannot have" else "NaN or infinity"
    throw KitException(
        KitException.Kind.UNUSABLE_OUTPUT,
        "the output $name holds $what",
        "run DeviceCheck; if it fails too, export again with more blocks in fp32",
    )
}
