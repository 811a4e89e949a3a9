package android.util;

public final class Log {
    private Log() {}

    public static int i(String tag, String message) {
        System.out.println(tag + ": " + message);
        return 0;
    }
}
