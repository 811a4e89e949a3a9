package io.vggtedge

import androidx.annotation.FloatRange

/**
 * What the model says about some frames of one place. The world is the camera of the first frame.
 *
 * @property outputs The outputs that were exported, by name.
 * @property frames How many frames went in.
 * @property frameSize The frames as the model saw them: the pixels of all maps.
 * @property pixelCenters Where the centre of the first pixel lies in the point cloud, as the kit says.
 */
public class Prediction
@JvmOverloads
constructor(
    public val outputs: Map<String, FloatTensor>,
    public val frames: Int,
    public val frameSize: FrameSize,
    public val pixelCenters: PixelCenters = PixelCenters.HALF,
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
     * the point map where one of them was not exported. [share] says how many pixels to keep, from 0 to 1.
     * [contents]: [Framing.content] of each frame, where pictures were filled up with white, since those pixels have no
     * point; null where all pixels count. Throws [KitException] if the model was exported with neither, for a share
     * below 1 without a confidence to choose by, and for another number of contents than frames.
     */
    @JvmOverloads
    public fun pointCloud(
        @FloatRange(from = 0.0, to = 1.0) share: Double = 0.5,
        contents: List<FrameArea>? = null,
    ): FloatArray {
        if (contents != null && contents.size != frames) {
            throw wrongInput("the contents of ${contents.size} frames of $frames", "give one for each frame")
        }
        val shown = contents?.let { PointCloud.shownPixels(it, frameSize) }
        val isFromDepth = "depth" in outputs && "pose_enc" in outputs
        val keep = confidentPixels(if (isFromDepth) depthConfidence else pointsConfidence, share, shown)
        val all =
            if (isFromDepth) PointCloud.unproject(output("depth").values, cameras(), frameSize, pixelCenters)
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

    /** Null: all of them. The share is one of the [shown] pixels. */
    private fun confidentPixels(confidence: FloatTensor?, share: Double, shown: BooleanArray?): BooleanArray? {
        if (confidence != null) {
            if (shown == null) return PointCloud.confidentPixels(listOf(confidence.values), share)
            val values = confidence.values
            if (values.size != shown.size) throw wrongInput("confidences of other pixels", "pass the model's")
            val those = values.filterIndexed { index, _ -> shown[index] }.toFloatArray()
            val kept = PointCloud.confidentPixels(listOf(those), share).iterator()
            return BooleanArray(shown.size) { shown[it] && kept.next() }
        }
        if (share == 1.0) return shown
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
