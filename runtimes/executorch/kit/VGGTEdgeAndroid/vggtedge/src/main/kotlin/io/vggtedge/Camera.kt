package io.vggtedge

import kotlin.math.tan

/**
 * Where a camera is: world to camera, `camera = rotation * world + translation`.
 *
 * OpenCV axes: x right, y down, z forward. The world is the camera of frame 0.
 *
 * @property rotation World axes to camera axes.
 * @property translation The origin of the world in camera coordinates.
 */
public data class Extrinsics(public val rotation: Matrix3, public val translation: Vector3) {
    /** The position of the camera in the world. */
    public val cameraCenter: Vector3 get() = -(rotation.transposed * translation)

    /** The twelve entries of `[R|t]`, row after row. */
    public val rowMajor: DoubleArray
        get() {
            val (first, second, third) = rotation
            return doubleArrayOf(
                first.x, first.y, first.z, translation.x,
                second.x, second.y, second.z, translation.y,
                third.x, third.y, third.z, translation.z,
            )
        }

    /** A world point in camera coordinates. */
    public fun toCamera(point: Vector3): Vector3 = rotation * point + translation

    /** A camera point in world coordinates. */
    public fun toWorld(point: Vector3): Vector3 = rotation.transposed * (point - translation)
}

/**
 * How a camera projects, in pixels. The image spans `[0, width] x [0, height]`, so its centre is half of both.
 *
 * @property focalX Focal length along x.
 * @property focalY Focal length along y.
 * @property centerX Principal point, x.
 * @property centerY Principal point, y.
 */
public data class Intrinsics(
    public val focalX: Double,
    public val focalY: Double,
    public val centerX: Double,
    public val centerY: Double,
) {
    init {
        val areFocal = focalX.isFinite() && focalX > 0 && focalY.isFinite() && focalY > 0
        if (!areFocal || !centerX.isFinite() || !centerY.isFinite()) {
            throw wrongInput("intrinsics $focalX, $focalY, $centerX, $centerY", "give finite ones, focal above 0")
        }
    }

    /** The matrix K. */
    public val matrix: Matrix3
        get() = Matrix3(Vector3(focalX, 0.0, centerX), Vector3(0.0, focalY, centerY), Vector3(0.0, 0.0, 1.0))

    /**
     * The direction with z = 1 in which the middle of the pixel in [column] and [row] is seen, both from 0.
     *
     * [centers]: where the centre of the first pixel lies.
     */
    @JvmOverloads
    public fun ray(column: Int, row: Int, centers: PixelCenters = PixelCenters.HALF): Vector3 =
        Vector3((column + centers.place - centerX) / focalX, (row + centers.place - centerY) / focalY, 1.0)

    /** These intrinsics after [RgbImage.framed]. */
    public fun framed(framing: Framing): Intrinsics =
        Intrinsics(
            focalX = focalX * framing.scaleX,
            focalY = focalY * framing.scaleY,
            centerX = centerX * framing.scaleX + framing.left,
            centerY = centerY * framing.scaleY + framing.top,
        )

    /** These intrinsics after [RgbImage.resizedToCover] took the frame from [source] to [target]. */
    public fun resized(source: FrameSize, target: FrameSize): Intrinsics {
        val crop = FrameCrop(source, target)
        return Intrinsics(
            focalX = focalX * crop.scale,
            focalY = focalY * crop.scale,
            centerX = centerX * crop.scale - crop.left * crop.scale,
            centerY = centerY * crop.scale - crop.top * crop.scale,
        )
    }

    /** Intrinsics from what a pose encoding holds. */
    public companion object {
        /** From fields of view in radians, with the principal point in the middle of a frame of [size]. */
        @JvmStatic
        public fun ofFieldsOfView(vertical: Double, horizontal: Double, size: FrameSize): Intrinsics =
            Intrinsics(
                focalX = size.width / 2.0 / tan(horizontal / 2),
                focalY = size.height / 2.0 / tan(vertical / 2),
                centerX = size.width / 2.0,
                centerY = size.height / 2.0,
            )
    }
}

/**
 * One frame's camera.
 *
 * @property extrinsics Where it is.
 * @property intrinsics How it projects.
 */
public data class Camera(public val extrinsics: Extrinsics, public val intrinsics: Intrinsics)
