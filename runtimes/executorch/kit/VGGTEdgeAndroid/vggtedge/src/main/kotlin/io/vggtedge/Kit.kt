package io.vggtedge

import androidx.annotation.WorkerThread
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.util.Locale

/**
 * What `kit.json` says: the model, what goes in and comes out, and how far it may drift.
 *
 * @property target The device profile that the model was exported for.
 * @property planDigest sha256 of the precision plan.
 * @property model The program and its weights.
 * @property input What goes in.
 * @property preprocess How a picture becomes the input; `FIT` in kits of earlier exports.
 * @property pixelCenters Where the centre of the first pixel lies in a point cloud; `HALF` in kits of earlier exports.
 * @property outputs What comes out, in the order in which the program returns it.
 * @property blocks The precision of each block.
 * @property tolerances How far the model may drift.
 * @property golden The golden tensors; null in a kit without them.
 */
public class Kit
private constructor(
    public val target: String,
    public val planDigest: String,
    public val model: Model,
    public val input: Input,
    public val preprocess: Preprocess,
    public val pixelCenters: PixelCenters,
    public val outputs: List<Output>,
    public val blocks: List<Block>,
    public val tolerances: Tolerances,
    public val golden: Golden?,
) {
    /**
     * The program and its weights.
     *
     * @property program The name of the `.pte` beside `kit.json`.
     * @property sha256 Its sha256.
     * @property weights The name of the `.ptd` beside it; null where the program holds its weights itself.
     * @property weightsSha256 The sha256 of that.
     * @property executorchVersion The ExecuTorch that wrote the program.
     * @property delegate What runs it, such as `xnnpack`.
     * @property memory What it takes to run it.
     */
    public data class Model(
        public val program: String,
        public val sha256: String,
        public val weights: String?,
        public val weightsSha256: String?,
        public val executorchVersion: String,
        public val delegate: String,
        public val memory: Memory,
    )

    /**
     * Memory outside of the Java heap, in bytes. What was measured is null where the bundle's `measured.json` does not
     * lie beside `kit.json`, or where the export could not measure it.
     *
     * @property plannedBytes What ExecuTorch plans for values between delegate calls.
     * @property loadBytes Measured by the export: what loading the program added to its process.
     * @property firstPredictionBytes Measured by the export: the most that was added until the first prediction ended.
     */
    public data class Memory(
        public val plannedBytes: Long,
        public val loadBytes: Long?,
        public val firstPredictionBytes: Long?,
    )

    /**
     * What goes in: one tensor (1, frames, 3, height, width), RGB from 0 to 1.
     *
     * @property name Its name.
     * @property frames Frames per prediction.
     * @property height Rows of a frame, a multiple of 14.
     * @property width Columns of a frame, a multiple of 14.
     */
    public data class Input(
        public val name: String,
        public val frames: Int,
        public val height: Int,
        public val width: Int,
    ) {
        /** The size of a frame. */
        public val frameSize: FrameSize get() = FrameSize(width, height)

        /** The sides of the tensor. */
        public val shape: LongArray get() = longArrayOf(1, frames.toLong(), 3, height.toLong(), width.toLong())
    }

    /**
     * One output, float32.
     *
     * @property name `pose_enc`, `depth`, `depth_conf`, `points`, `points_conf`, `sky`, `rays` or `ray_conf`.
     * @property shape Its sides, the batch of 1 first.
     */
    public data class Output(public val name: String, public val shape: List<Long>)

    /**
     * One block of the model and the scheme that its weights and activations are stored in.
     *
     * @property block Its name, such as `frame_blocks.0`.
     * @property scheme Its scheme, such as `w4a8d`.
     */
    public data class Block(public val block: String, public val scheme: String)

    /**
     * How far the model may drift.
     *
     * @property backendSqnrDbMin The least SQNR in dB of each output against the simulation of the same plan, above 0
     *   and at most 200; null: not judged.
     * @property poseDegreesMax The largest angle in degrees between the cameras of two frames, of rotation and of
     *   direction of translation, above 0 and at most 180; null: for information.
     */
    public data class Tolerances(public val backendSqnrDbMin: Double?, public val poseDegreesMax: Double?)

    /**
     * The golden tensors.
     *
     * @property file The name of the file beside `kit.json`.
     * @property sha256 Its sha256.
     */
    public data class Golden(public val file: String, public val sha256: String)

    /** Throws [KitException] unless program and weights are byte for byte what `kit.json` lists. */
    @WorkerThread
    public fun checkModel(folder: File): Unit = checkModel(folder) {}

    /** [hashed] is told the bytes of each part that was read, and may stop the check by throwing. */
    internal fun checkModel(folder: File, hashed: (Int) -> Unit) {
        checkFile(File(folder, model.program), model.sha256, hashed)
        val weights = model.weights ?: return
        checkFile(File(folder, weights), model.weightsSha256.orEmpty(), hashed)
    }

    /** Reads kits. */
    public companion object {
        /** The one version of `kit.json` that this library reads. */
        public const val SCHEMA_VERSION: Int = 1

        /** The name of the file. */
        public const val FILE_NAME: String = "kit.json"

        /** The name of the bundle's file with what its export measured. */
        public const val MEASURED_FILE_NAME: String = "measured.json"

        /** A longer file is refused before it is read. */
        private const val LONGEST_FILE = 1 shl 20

        /**
         * Reads and checks `kit.json` in [folder], `executorch` in a bundle, and `measured.json` where it is there too.
         *
         * Throws [KitException] for a file that is missing, of another version, or not consistent in itself.
         */
        @WorkerThread
        @JvmStatic
        public fun read(folder: File): Kit {
            val measured = File(folder, MEASURED_FILE_NAME)
            return parse(contents(File(folder, FILE_NAME)), if (measured.exists()) contents(measured) else null)
        }

        /** From the contents of `kit.json`; throws as [read] does. */
        @JvmStatic public fun parse(json: String): Kit = parse(json.toByteArray())

        internal fun parse(json: ByteArray, measured: ByteArray? = null): Kit {
            for (text in listOfNotNull(json, measured)) {
                if (text.size > LONGEST_FILE) throw damaged("it has more than $LONGEST_FILE bytes")
            }
            val taken = measured?.let { readJson(it, ::notMeasured, ::firstRun) } ?: FirstRun(null, null)
            val kit =
                readJson(json, ::damaged) { root ->
                    checkVersion(root.int("schema_version"))
                    kit(root, taken)
                }
            kit.check()
            return kit
        }

        private fun contents(file: File): ByteArray =
            try {
                file.inputStream().use(::contents)
            } catch (error: IOException) {
                throw KitException(
                    KitException.Kind.DAMAGED_FILE,
                    "cannot read $file: ${error.message}",
                    "copy kit.json from the bundle's executorch folder, beside the program",
                    error,
                )
            }

        /** At most one byte more than a kit may have, however long the file is. */
        internal fun contents(stream: InputStream): ByteArray {
            val part = ByteArray(LONGEST_FILE + 1)
            var count = 0
            while (count < part.size) {
                val read = stream.read(part, count, part.size - count)
                if (read < 0) break
                count += read
            }
            return part.copyOf(count)
        }

        private fun checkVersion(version: Int) {
            if (version == SCHEMA_VERSION) return
            throw KitException(
                KitException.Kind.UNSUPPORTED,
                "kit.json has version $version, this library reads $SCHEMA_VERSION",
                "take kit.json and VGGTEdgeAndroid out of the same bundle",
            )
        }

        internal fun damaged(reason: String): KitException = unusable(FILE_NAME, reason)

        private fun notMeasured(reason: String): KitException = unusable(MEASURED_FILE_NAME, reason)

        private fun unusable(file: String, reason: String): KitException =
            KitException(
                KitException.Kind.DAMAGED_FILE,
                "$file cannot be used: $reason",
                "copy it from the bundle again",
            )

        private fun kit(json: JsonTable, taken: FirstRun): Kit =
            Kit(
                target = json.text("target"),
                planDigest = json.text("plan_digest"),
                model = model(json.table("model"), taken),
                input = input(json.table("input")),
                preprocess = if ("preprocess" in json.keys) preprocess(json.table("preprocess")) else Preprocess.FIT,
                pixelCenters = if ("pixel_centers" in json.keys) json.word("pixel_centers") else PixelCenters.HALF,
                outputs = json.tables("outputs").map(::output),
                blocks = json.tables("blocks").map(::block),
                tolerances = tolerances(json.table("tolerances")),
                golden = json.tableOrNull("golden")?.let(::golden),
            )

        private fun model(json: JsonTable, taken: FirstRun): Model =
            Model(
                program = json.text("program"),
                sha256 = json.text("sha256"),
                weights = json.textOrNull("weights"),
                weightsSha256 = json.textOrNull("weights_sha256"),
                executorchVersion = json.text("executorch_version"),
                delegate = json.text("delegate"),
                memory = memory(json.table("memory"), taken),
            )

        private fun memory(json: JsonTable, taken: FirstRun): Memory =
            Memory(json.whole("planned_bytes"), taken.loadBytes, taken.firstPredictionBytes)

        /** What `measured.json` says of memory; null is what could not be measured, or was not after a resume. */
        private class FirstRun(val loadBytes: Long?, val firstPredictionBytes: Long?)

        private fun firstRun(json: JsonTable): FirstRun {
            val run = json.table("checks").within("executorch")?.within("ExecuTorch run")
            return FirstRun(run?.wholeWithin("load_bytes"), run?.wholeWithin("first_prediction_bytes"))
        }

        private fun JsonTable.within(key: String): JsonTable? = if (key in keys) table(key) else null

        private fun JsonTable.wholeWithin(key: String): Long? = if (key in keys) whole(key) else null

        private fun input(json: JsonTable): Input {
            for ((key, only) in listOf("order" to "NCHW", "layout" to "contiguous", "dtype" to "float32")) {
                if (json.text(key) != only) throw JsonProblem("the input's $key is ${json.text(key)}, not $only")
            }
            return Input(json.text("name"), json.int("frames"), json.int("height"), json.int("width"))
        }

        private fun preprocess(json: JsonTable): Preprocess {
            val patch = json.int("patch")
            if (patch !in 1..Preprocess.MOST_SCALED) throw JsonProblem("the patch of preprocess is $patch")
            return Preprocess(json.word("mode"), patch)
        }

        private inline fun <reified Word : Enum<Word>> JsonTable.word(key: String): Word {
            val words = enumValues<Word>()
            return words.find { it.name.lowercase(Locale.ROOT) == text(key) }
                ?: throw JsonProblem("$key is none of ${words.joinToString { it.name.lowercase(Locale.ROOT) }}")
        }

        private fun output(json: JsonTable) = Output(json.text("name"), json.wholes("shape"))

        private fun block(json: JsonTable) = Block(json.text("block"), json.text("scheme"))

        /** A misspelt limit would count as none, so that no other key is allowed. Older kits lack the second one. */
        private fun tolerances(json: JsonTable): Tolerances {
            val others = json.keys - setOf("backend_sqnr_db_min", "pose_degrees_max")
            if (others.isNotEmpty()) throw JsonProblem("tolerances has the unknown key ${others.first().take(40)}")
            val angle = if ("pose_degrees_max" in json.keys) json.numberOrNull("pose_degrees_max") else null
            return Tolerances(json.numberOrNull("backend_sqnr_db_min"), angle)
        }

        private fun golden(json: JsonTable) = Golden(json.text("file"), json.text("sha256"))
    }
}
