package io.vggtedge

import kotlin.math.ln
import kotlin.math.max

/** From maps per pixel to points in space. */
public object PointCloud {
    private const val SMALLEST_CONFIDENCE = 1e-12

    /**
     * The world point of every pixel: x, y, z of one after the other, in the coordinates of frame 0's camera.
     *
     * [depth] are distances along the optical axis, frame after frame, row after row; [size] is that of a frame.
     * Throws [KitException] unless there is one depth per pixel of each frame.
     */
    public fun unproject(depth: FloatArray, cameras: List<Camera>, size: FrameSize): FloatArray {
        if (cameras.isEmpty() || depth.size != cameras.size * size.pixelCount) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "${depth.size} depths for ${cameras.size} frames of $size pixels",
                "pass depth and cameras of one prediction, and its frame size",
            )
        }
        val points = FloatArray(3 * depth.size)
        var index = 0
        for (camera in cameras) {
            for (row in 0 until size.height) {
                for (column in 0 until size.width) {
                    val inCamera = camera.intrinsics.ray(column, row) * depth[index].toDouble()
                    val point = camera.extrinsics.toWorld(inCamera)
                    points[3 * index] = point.x.toFloat()
                    points[3 * index + 1] = point.y.toFloat()
                    points[3 * index + 2] = point.z.toFloat()
                    index += 1
                }
            }
        }
        return points
    }

    /**
     * True for the pixels with the highest product of confidences, ties included.
     *
     * [confidences] are one or more maps of the same pixels, such as `depth_conf` and `points_conf`; [share] says how
     * many to keep, from 0 to 1. The exporter's figures keep half. Throws [KitException] for no map, maps of
     * different lengths, NaN or infinity.
     */
    public fun confidentPixels(confidences: List<FloatArray>, share: Double = 0.5): BooleanArray {
        val count = confidences.firstOrNull()?.size ?: 0
        if (count == 0 || confidences.any { it.size != count } || share !in 0.0..1.0) {
            throw KitException(
                KitException.Kind.WRONG_INPUT,
                "no mask from ${confidences.size} confidence maps and the share $share",
                "pass confidence maps of one prediction and a share from 0 to 1",
            )
        }
        if (confidences.any { map -> map.any { !it.isFinite() } }) {
            throw KitException(
                KitException.Kind.UNUSABLE_OUTPUT,
                "NaN or infinity among the confidences",
                "run DeviceCheck; if it fails too, export again with the depth and point heads in fp32",
            )
        }
        val joint = DoubleArray(count) { index ->
            confidences.sumOf { ln(max(it[index].toDouble(), SMALLEST_CONFIDENCE)) }
        }
        val limit = percentile(joint.sortedArray(), 1 - share)
        return BooleanArray(count) { joint[it] >= limit }
    }
}
