package io.vggtedge

import kotlin.math.ln
import kotlin.math.max

/** From maps per pixel to points in space. */
public object PointCloud {
    private const val SMALLEST_CONFIDENCE = 1e-12

    /** Three numbers each have to fit into an array. */
    private const val MOST = (Int.MAX_VALUE - 8) / 3

    /**
     * The world point of every pixel: x, y, z of one after the other, in the coordinates of frame 0's camera.
     *
     * [depth] are distances along the optical axis, frame after frame, row after row; [size] is that of a frame.
     * [centers] says where the centre of the first pixel lies: `pixelCenters` of the kit. Throws [KitException] unless
     * there is one finite depth per pixel of each frame.
     */
    @JvmStatic
    @JvmOverloads
    public fun unproject(
        depth: FloatArray,
        cameras: List<Camera>,
        size: FrameSize,
        centers: PixelCenters = PixelCenters.HALF,
    ): FloatArray {
        if (cameras.isEmpty() || depth.size.toLong() != cameras.size.toLong() * size.pixelCount || depth.size > MOST) {
            throw wrongInput(
                "${depth.size} depths for ${cameras.size} frames of $size pixels",
                "pass depth and cameras of one prediction, and its frame size",
            )
        }
        if (!depth.all { it.isFinite() }) throw notFinite("depths")
        val points = FloatArray(3 * depth.size)
        for ((frame, camera) in cameras.withIndex()) {
            unproject(depth, frame * size.pixelCount, camera, size, centers.place, points)
        }
        return points
    }

    /** One frame; plain numbers, since an object for each pixel would take ten times the memory of the points. */
    private fun unproject(
        depth: FloatArray,
        start: Int,
        camera: Camera,
        size: FrameSize,
        center: Double,
        points: FloatArray,
    ) {
        val (row0, row1, row2) = camera.extrinsics.rotation
        val (shiftX, shiftY, shiftZ) = camera.extrinsics.translation
        val lens = camera.intrinsics
        val acrossRays = DoubleArray(size.width) { (it + center - lens.centerX) / lens.focalX }
        var index = start
        for (row in 0 until size.height) {
            val downRay = (row + center - lens.centerY) / lens.focalY
            for (column in 0 until size.width) {
                val distance = depth[index].toDouble()
                val x = acrossRays[column] * distance - shiftX
                val y = downRay * distance - shiftY
                val z = distance - shiftZ
                points[3 * index] = (row0.x * x + row1.x * y + row2.x * z).toFloat()
                points[3 * index + 1] = (row0.y * x + row1.y * y + row2.y * z).toFloat()
                points[3 * index + 2] = (row0.z * x + row1.z * y + row2.z * z).toFloat()
                index += 1
            }
        }
    }

    /**
     * True for the pixels with the highest product of confidences, ties included.
     *
     * [confidences] are one or more maps of the same pixels, such as `depth_conf` and `points_conf`; [share] says how
     * many to keep, from 0 to 1. The exporter's figures keep half. Throws [KitException] for no map, maps of
     * different lengths, NaN or infinity.
     */
    @JvmStatic
    @JvmOverloads
    public fun confidentPixels(confidences: List<FloatArray>, share: Double = 0.5): BooleanArray {
        val count = confidences.firstOrNull()?.size ?: 0
        if (count == 0 || confidences.any { it.size != count } || share !in 0.0..1.0) {
            throw wrongInput(
                "no mask from ${confidences.size} confidence maps and the share $share",
                "pass confidence maps of one prediction and a share from 0 to 1",
            )
        }
        if (confidences.any { map -> map.any { !it.isFinite() } }) throw notFinite("confidences")
        val joint = DoubleArray(count)
        for (map in confidences) {
            for (index in 0 until count) joint[index] += ln(max(map[index].toDouble(), SMALLEST_CONFIDENCE))
        }
        val limit = percentile(joint.copyOf(), 1 - share)
        return BooleanArray(count) { joint[it] >= limit }
    }

    /**
     * True for the pixels of all frames that show the picture, and are not white because `CROP` or `PAD` filled up.
     *
     * [contents] are [Framing.content] of each frame, [size] is that of a frame.
     */
    @JvmStatic
    public fun shownPixels(contents: List<FrameArea>, size: FrameSize): BooleanArray =
        BooleanArray(contents.size * size.pixelCount) {
            val pixel = it % size.pixelCount
            contents[it / size.pixelCount].contains(pixel % size.width, pixel / size.width)
        }

    internal fun notFinite(what: String) =
        KitException(
            KitException.Kind.UNUSABLE_OUTPUT,
            "NaN or infinity among the $what",
            "run DeviceCheck; if it fails too, export again with the depth and point heads in fp32",
        )
}
