package android.os;

/** A test sets what the device is to be through system properties, before this class is loaded. */
public class Build {
    public static final String ID = text("ID", "STAND.IN");
    public static final String MANUFACTURER = text("MANUFACTURER", "maker");
    public static final String MODEL = text("MODEL", "Phone");
    public static final String HARDWARE = text("HARDWARE", "phone");
    public static final String FINGERPRINT = text("FINGERPRINT", "maker/phone");
    public static final String[] SUPPORTED_ABIS = text("SUPPORTED_ABIS", "arm64-v8a").split(",");

    private static String text(String name, String otherwise) {
        return System.getProperty("device." + name, otherwise);
    }

    public static class VERSION {
        public static final String RELEASE = text("RELEASE", "15");
        public static final int SDK_INT = Integer.parseInt(text("SDK_INT", "35"));
    }

    public static class VERSION_CODES {
        public static final int O = 26;
        public static final int Q = 29;
        public static final int TIRAMISU = 33;
        public static final int UPSIDE_DOWN_CAKE = 34;
    }
}
