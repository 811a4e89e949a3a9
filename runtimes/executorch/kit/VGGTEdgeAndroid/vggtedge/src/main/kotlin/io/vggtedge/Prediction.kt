package io.vggtedge

import androidx.annotation.FloatRange

/**
 * What the model says about some frames of one place. The world is the camera of the first frame.
 *
 * @property outputs The outputs that were exported, by name.
 * @property frames How many frames went in.
 * @property frameSize The frames as the model saw them: the pixels of all maps.
 */
public class Prediction(
    public val outputs: Map<String, FloatTensor>,
    public val frames: Int,
    public val frameSize: FrameSize,
) {
    /** Distances along the optical axis, (1, S, H, W), in units of the scene. */
    public val depth: FloatTensor? get() = outputs["depth"]

    /** How sure the model is of each depth, from 1 up, (1, S, H, W). */
    public val depthConfidence: FloatTensor? get() = outputs["depth_conf"]

    /** The world point of each pixel, (1, S, H, W, 3), in units of the scene. */
    public val points: FloatTensor? get() = outputs["points"]

    /** How sure the model is of each point, from 1 up, (1, S, H, W). */
    public val pointsConfidence: FloatTensor? get() = outputs["points_conf"]

    /** The camera of each frame. Throws [KitException] if the model gives none, or none that can be used. */
    public fun cameras(): List<Camera> = PoseEncoding.cameras(output("pose_enc").values, frameSize)

    /**
     * The points of the most confident pixels of all frames: x, y, z of one after the other.
     *
     * Taken from depth and cameras, more accurate than the point map by VGGT's authors (arXiv 2503.11651), and from
     * the point map where one of them was not exported. [share] says how many pixels to keep, from 0 to 1. Throws
     * [KitException] if the model was exported with neither, and for a share below 1 without a confidence to choose by.
     */
    @JvmOverloads
    public fun pointCloud(@FloatRange(from = 0.0, to = 1.0) share: Double = 0.5): FloatArray {
        val isFromDepth = "depth" in outputs && "pose_enc" in outputs
        val keep = confidentPixels(if (isFromDepth) depthConfidence else pointsConfidence, share)
        val all =
            if (isFromDepth) PointCloud.unproject(output("depth").values, cameras(), frameSize)
            else output("points").values
        if (!all.all { it.isFinite() }) throw PointCloud.notFinite("points")
        if (keep == null) return all
        if (all.size != 3 * keep.size) throw wrongInput("points and confidences of other pixels", "pass the model's")
        val kept = FloatArray(3 * keep.count { it })
        var to = 0
        for (index in keep.indices) {
            if (!keep[index]) continue
            all.copyInto(kept, to, 3 * index, 3 * index + 3)
            to += 3
        }
        return kept
    }

    /** Null: all of them. */
    private fun confidentPixels(confidence: FloatTensor?, share: Double): BooleanArray? {
        if (confidence != null) return PointCloud.confidentPixels(listOf(confidence.values), share)
        if (share == 1.0) return null
        if ("points" !in outputs) output("depth_conf")
        throw wrongInput("a share of $share without a confidence", "pass 1.0, or export the confidences too")
    }

    private fun output(name: String): FloatTensor =
        outputs[name]
            ?: throw KitException(
                KitException.Kind.WRONG_INPUT,
                "the model has no output $name, only ${outputs.keys.sorted().joinToString()}",
                "export with --outputs depth,points,camera",
            )
}
