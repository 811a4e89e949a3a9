package io.vggtedge

private const val MOST_FRAMES = 1024
private const val LONGEST_SIDE = 1 shl 14
private val SHA256 = Regex("[0-9a-f]{64}")

/** Throws [KitException] where the parts of a kit do not fit each other. */
internal fun Kit.check() {
    checkInput(input)
    checkFiles()
    if (outputs.isEmpty() || outputs.distinctBy { it.name }.size != outputs.size) {
        throw Kit.damaged("its outputs are not one or more different ones")
    }
    for (output in outputs) {
        if (output.shape != expectedShape(output.name)) {
            throw Kit.damaged("the output ${output.name} has the shape ${output.shape}")
        }
    }
}

private fun checkInput(input: Kit.Input) {
    val size = input.frameSize
    if (input.frames !in 1..MOST_FRAMES || !size.isWholePatches || maxOf(size.width, size.height) > LONGEST_SIDE) {
        throw Kit.damaged("an input of ${input.frames} frames of $size pixels")
    }
    // A Java buffer has no more elements than an Int can count, and its bytes are counted too.
    if (input.shape.fold(1L) { product, side -> product * side } > Int.MAX_VALUE / Float.SIZE_BYTES) {
        throw Kit.damaged("an input of ${input.frames} frames of $size pixels, which no buffer holds")
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
    return when (output) {
        "pose_enc" -> listOf(1L, input.frames.toLong(), PoseEncoding.LENGTH.toLong())
        "depth", "depth_conf", "points_conf" -> pixels
        "points" -> pixels + 3L
        else -> null
    }
}
