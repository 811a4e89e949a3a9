package io.vggtedge

private const val MOST_FRAMES = 1024
private const val LONGEST_SIDE = 1 shl 14
private const val WIDEST_ANGLE = 180.0
private val SHA256 = Regex("[0-9a-f]{64}")

/** Throws [KitException] where the parts of a kit do not fit each other. */
internal fun Kit.check() {
    checkInput(input, preprocess.patch)
    checkFiles()
    checkLimit(tolerances.backendSqnrDbMin, Drift.LIMIT_DB, "dB")
    checkLimit(tolerances.poseDegreesMax, WIDEST_ANGLE, "degrees")
    checkMemory(model.memory)
    if (outputs.isEmpty() || outputs.distinctBy { it.name }.size != outputs.size) {
        throw Kit.damaged("its outputs are not one or more different ones")
    }
    for (output in outputs) {
        if (output.shape != expectedShape(output.name)) {
            throw Kit.damaged("the output ${output.name.take(40)} has a shape that the input does not lead to")
        }
    }
}

/** A limit of 0 or less lets everything pass, one above [most] nothing. */
private fun checkLimit(limit: Double?, most: Double, unit: String) {
    if (limit == null || limit > 0 && limit <= most) return
    throw Kit.damaged("a limit of $limit $unit, expected above 0 and at most $most")
}

private fun checkMemory(memory: Kit.Memory) {
    val wrong = listOf(memory.plannedBytes, memory.loadBytes, memory.firstPredictionBytes).find { it != null && it < 0 }
    if (wrong != null) throw Kit.damaged("a memory of $wrong bytes")
}

private fun checkInput(input: Kit.Input, patch: Int) {
    val sides = listOf(input.width, input.height)
    val areWholePatches = sides.all { it in 1..LONGEST_SIDE && it % patch == 0 }
    if (input.frames !in 1..MOST_FRAMES || !areWholePatches) {
        throw Kit.damaged("an input of ${input.frames} frames of ${input.width} x ${input.height} pixels")
    }
    // A Java buffer has no more elements than an Int can count, and its bytes are counted too.
    if (input.shape.fold(1L) { product, side -> product * side } > Int.MAX_VALUE / Float.SIZE_BYTES) {
        throw Kit.damaged("an input of ${input.frames} frames of ${input.frameSize} pixels, which no buffer holds")
    }
}

private fun Kit.checkFiles() {
    val names = listOfNotNull(model.program, model.weights, golden?.file)
    val digests = listOfNotNull(model.sha256, model.weightsSha256, golden?.sha256)
    if (!names.all(::isPlainName)) throw Kit.damaged("a file name leads out of the folder")
    val isPaired = (model.weights == null) == (model.weightsSha256 == null)
    if (!isPaired || !digests.all(SHA256::matches)) throw Kit.damaged("a sha256 is missing or none")
}

private fun isPlainName(name: String): Boolean =
    name.isNotEmpty() && name != "." && name != ".." && name.none { it == '/' || it == '\\' || it == '\u0000' }

/** The shape of a known output, null for an unknown one. */
internal fun Kit.expectedShape(output: String): List<Long>? {
    val pixels = listOf(1L, input.frames.toLong(), input.height.toLong(), input.width.toLong())
    val patch = preprocess.patch
    val cells = listOf(1L, input.frames.toLong(), input.height * 8L / patch, input.width * 8L / patch)
    return when (output) {
        "pose_enc" -> listOf(1L, input.frames.toLong(), PoseEncoding.LENGTH.toLong())
        "depth", "depth_conf", "points_conf", "sky" -> pixels
        "points" -> pixels + 3L
        "rays" -> cells + 6L
        "ray_conf" -> cells
        else -> null
    }
}
