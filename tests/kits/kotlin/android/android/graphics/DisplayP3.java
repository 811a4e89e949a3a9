package android.graphics;

/** Display P3 and sRGB have one white and one transfer curve; between their linear values lies a matrix. */
final class DisplayP3 {
    private static final double[][] TO_SRGB = {
        {1.2249401763, -0.2249401763, 0.0},
        {-0.0420569547, 1.0420569547, 0.0},
        {-0.0196375546, -0.0786360455, 1.0982736001},
    };

    private DisplayP3() {}

    static int toSrgb(int color) {
        double[] linear = {light(color >> 16 & 255), light(color >> 8 & 255), light(color & 255)};
        int result = color & 0xff000000;
        for (int channel = 0; channel < 3; channel++) {
            double[] row = TO_SRGB[channel];
            double value = row[0] * linear[0] + row[1] * linear[1] + row[2] * linear[2];
            result |= level(value) << (16 - 8 * channel);
        }
        return result;
    }

    private static double light(int level) {
        double value = level / 255.0;
        return value <= 0.04045 ? value / 12.92 : Math.pow((value + 0.055) / 1.055, 2.4);
    }

    private static int level(double light) {
        double kept = Math.min(1, Math.max(0, light));
        double value = kept <= 0.0031308 ? 12.92 * kept : 1.055 * Math.pow(kept, 1 / 2.4) - 0.055;
        return (int) Math.round(255 * value);
    }
}
